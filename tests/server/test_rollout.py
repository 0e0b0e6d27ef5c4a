"""Versions are loaded and unloaded while the server runs; a faulty one changes nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from serving import make_bundle, make_settings, png, random_images, running
from stingy_server import ConfigurationError, ModelSettings, create_app
from stingy_server.identity import bundle_digest
from stingy_server.models.endpoints import Endpoint, close_endpoints
from stingy_server.models.loading import load_bundles
from stingy_server.rollout import Rollout
from stingy_server.service import Service
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.budgets import model_owner
from stingy_server.store.deployments import Deployment, Deployments
from stingy_server.store.ledger import Ledger

pytestmark = pytest.mark.anyio
IMAGE = png(random_images(1)[0])
WIDE = "stingy:n=5"


@pytest.fixture
async def running_one(tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, FastAPI]]:
    bundle = ModelSettings(bundle=make_bundle(tmp_path / "1"), budget=10)
    async with running(make_settings(tmp_path / "s", bundle)) as both:
        yield both


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Build the service of an application that has not started and runs no rollout itself."""
    service: Service = create_app(
        make_settings(tmp_path / "s", make_bundle(tmp_path / "1"))
    ).state.service
    yield service
    close_endpoints(service.fleet)
    service.database.close()


def version_events(service: Service) -> list[str]:
    """Return the ledger's events of versions: load, share and unload."""
    events = [entry.event for _, entry in Ledger(service.database).entries()]
    return [event for event in events if event in ("load", "share", "unload")]


def model_threads() -> int:
    return sum(thread.name == "model" for thread in threading.enumerate())


def second_version(
    folder: Path, *, seed: int = 1, looser: bool = False, **options: float | str
) -> Deployment:
    bundle = make_bundle(folder / f"2-{seed}", version="2", seed=seed)
    model = ModelSettings(bundle=bundle, **options)  # type: ignore[arg-type]
    return replace(deployment("digits", "2", model), looser=looser)


def deployment(name: str, version: str, model: ModelSettings) -> Deployment:
    """Return a deployment with the digest of the present bundle, as `stingy models load` does."""
    settings = make_settings(model.bundle.parent / "s", model, allow_open=True)
    models, _ = load_bundles(settings, with_networks=False)
    digests = [bundle_digest(found.manifest, found.policy) for found in models]
    return Deployment(name, version, model, digests[0] if digests else "")


async def test_version_is_loaded_shared_and_unloaded(
    running_one: tuple[httpx.AsyncClient, FastAPI], tmp_path: Path
) -> None:
    client, app = running_one
    service: Service = app.state.service
    deployments, rollout = Deployments(service.database), Rollout(service, [])

    async def version() -> str:
        answer = await client.post("/v1/predict/digits", content=IMAGE)
        return str(answer.json()["version"])

    deployments.upsert(second_version(tmp_path, share=0.0))
    await rollout.reconcile()
    assert await version() == "1"
    assert (await client.get("/v2/models/digits/versions/2/ready")).status_code == 200
    assert (await client.get("/v2/models/digits")).json()["versions"] == ["1", "2"]
    deployments.upsert(second_version(tmp_path, share=1.0))
    await rollout.reconcile()
    assert await version() == "2"
    deployments.delete("digits", "2")
    await rollout.reconcile()
    assert await version() == "1"
    assert (await client.get("/v2/models/digits/versions/2/ready")).status_code == 404
    assert version_events(service) == ["load", "share", "unload"]


async def test_version_with_changed_settings_is_reloaded(service: Service, tmp_path: Path) -> None:
    deployments, rollout = Deployments(service.database), Rollout(service, [])
    deployments.upsert(second_version(tmp_path, share=0.5, policy=WIDE, looser=True))
    await rollout.reconcile()
    deployments.delete("digits", "2")  # and added once more before the next round
    deployments.upsert(second_version(tmp_path, share=0.5, policy="label"))
    await rollout.reconcile()
    (report,) = [report for report in deployments.reports() if report.version == "2"]
    endpoint = service.fleet.find("digits", "2", caller="")
    assert endpoint is not None
    assert report.policy == endpoint.policy.describe() == "label: top 1 of 10 classes, no scores"
    deployments.upsert(second_version(tmp_path, share=1.0, policy="label"))
    for _ in range(2):
        await rollout.reconcile()
    assert version_events(service) == ["load", "unload", "load", "share"]


async def test_version_deleted_while_it_loads_is_not_served(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout, threads = Rollout(service, []), model_threads()
    load = rollout._load

    def load_after_delete(deployment: Deployment) -> tuple[Endpoint | None, list[str]]:
        with closing(service.database.reopen()) as own:
            assert Deployments(own).delete("digits", "2")
        return load(deployment)

    monkeypatch.setattr(rollout, "_load", load_after_delete)
    Deployments(service.database).upsert(second_version(tmp_path, share=0.5))
    await rollout.reconcile()
    assert [endpoint.manifest.version for endpoint in service.fleet] == ["1"]
    assert (version_events(service), model_threads()) == ([], threads)


async def test_version_changed_while_a_process_starts_is_reloaded(
    tmp_path: Path,
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "1"))
    async with running(settings) as (_, app):
        Deployments(app.state.service.database).upsert(
            second_version(tmp_path, share=0.5, policy=WIDE, looser=True)
        )
    app = create_app(settings)  # it has read the desired versions, and has written no report
    service: Service = app.state.service
    Deployments(service.database).upsert(second_version(tmp_path, share=0.5, policy="label"))
    async with app.router.lifespan_context(app), asyncio.timeout(60):
        while not any("label" in endpoint.policy.describe() for endpoint in service.fleet):
            await asyncio.sleep(0.05)


async def test_change_is_retried_until_the_ledger_records_it(
    service: Service, tmp_path: Path
) -> None:
    deployments, rollout = Deployments(service.database), Rollout(service, [])

    async def reconcile_with_full_ledger(event: str) -> None:
        """Reconcile twice while the ledger refuses such an entry, and once when it does not."""
        service.database.execute(
            f"CREATE TRIGGER full BEFORE INSERT ON ledger WHEN NEW.event = '{event}' "
            "BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        served, threads = [*service.fleet], model_threads()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await rollout.reconcile()
        assert ([*service.fleet], model_threads()) == (served, threads)
        service.database.execute("DROP TRIGGER full")
        await rollout.reconcile()
        assert version_events(service)[-1:] == [event]

    deployments.upsert(second_version(tmp_path, share=0.5))
    await reconcile_with_full_ledger("load")
    deployments.upsert(second_version(tmp_path, share=1.0))
    await reconcile_with_full_ledger("share")
    deployments.delete("digits", "2")
    await reconcile_with_full_ledger("unload")
    assert [endpoint.manifest.version for endpoint in service.fleet] == ["1"]
    assert version_events(service) == ["load", "share", "unload"]


async def test_request_sent_during_an_unload_is_answered(tmp_path: Path) -> None:
    timeouts = {"body_timeout_s": 5.0, "deadline_s": 1.0}
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "1"), **timeouts)
    async with running(settings) as (client, app), asyncio.timeout(60):
        service: Service = app.state.service
        deployments = Deployments(service.database)
        deployments.upsert(second_version(tmp_path, share=1.0))

        def served() -> Endpoint | None:
            return service.fleet.find("digits", "2", caller="")

        while (endpoint := served()) is None:
            await asyncio.sleep(0.05)
        close, closed, unloaded = endpoint.engine.close, asyncio.Event(), asyncio.Event()

        async def closing() -> None:
            await close()
            closed.set()

        endpoint.engine.close = closing  # type: ignore[method-assign]

        async def body() -> AsyncIterator[bytes]:
            yield IMAGE[:9]
            deployments.delete("digits", "2")
            await unloaded.wait()
            yield IMAGE[9:]

        response_task = asyncio.create_task(client.post("/v1/predict/digits", content=body()))
        while served() is not None:
            await asyncio.sleep(0.05)
        unloaded.set()
        response = await response_task
        assert (response.status_code, response.json()["version"]) == (200, "2")
        assert not closed.is_set()
        await closed.wait()


async def test_Q1_versions_of_a_model_share_one_budget(
    running_one: tuple[httpx.AsyncClient, FastAPI], tmp_path: Path
) -> None:
    client, app = running_one
    service: Service = app.state.service
    Deployments(service.database).upsert(second_version(tmp_path, share=0.0))
    await Rollout(service, []).reconcile()
    path = "/v2/models/digits/versions/{}/infer"
    document = {
        "inputs": [
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": [1, 8, 8, 3],
                "data": [0] * 192,
            }
        ]
    }
    statuses = [
        (await client.post(path.format(1 + turn % 2), json=document)).status_code
        for turn in range(12)
    ]
    assert statuses == [200] * 10 + [429] * 2
    budget = service.budgets.get(model_owner("digits"))
    assert budget is not None
    assert budget.used == 10


async def test_faulty_version_changes_nothing_and_reports_its_fault(
    running_one: tuple[httpx.AsyncClient, FastAPI], tmp_path: Path
) -> None:
    client, app = running_one
    service: Service = app.state.service
    deployments, rollout = Deployments(service.database), Rollout(service, [])
    deployments.upsert(second_version(tmp_path))  # without a share, like the other version
    deployments.upsert(deployment("bare", "1", ModelSettings(bundle=tmp_path / "1", policy="open")))
    deployments.upsert(deployment("gone", "1", ModelSettings(bundle=tmp_path / "gone")))
    await rollout.reconcile()
    reports = {report.name + report.version: report for report in deployments.reports()}
    assert reports["digits1"].fault is None
    assert "share" in str(reports["digits2"].fault)
    assert "allow_open" in str(reports["bare1"].fault)
    assert reports["gone1"].fault is not None
    assert (await client.get("/v2/models/digits")).json()["versions"] == ["1"]
    assert (await client.get("/v2/models/bare")).status_code == 404
    deployments.upsert(second_version(tmp_path, share=0.5))  # corrected, so it is tried again
    await rollout.reconcile()
    assert (await client.get("/v2/models/digits")).json()["versions"] == ["1", "2"]


async def test_bundle_of_another_version_is_not_served(
    running_one: tuple[httpx.AsyncClient, FastAPI], tmp_path: Path
) -> None:
    client, app = running_one
    service: Service = app.state.service
    deployments, rollout = Deployments(service.database), Rollout(service, [])
    deployments.upsert(deployment("digits", "9", second_version(tmp_path, share=0.5).settings))
    for _ in range(2):
        await rollout.reconcile()
    reports = {report.version: report.fault for report in deployments.reports()}
    assert reports["1"] is None
    assert "expected digits 9 in the bundle" in str(reports["9"])
    assert (await client.get("/v2/models/digits")).json()["versions"] == ["1"]


async def test_closed_rollout_has_no_reports(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "1"))
    async with running(settings) as (_, app):
        rollout = Rollout(app.state.service, [])
        await rollout.reconcile()
        assert Deployments(app.state.service.database).reports()
        rollout.close()
        ours = {report.process for report in Deployments(app.state.service.database).reports()}
        assert rollout._process not in ours


async def test_loaded_version_is_served_after_a_restart(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "1"))
    async with running(settings) as (_, app):
        Deployments(app.state.service.database).upsert(second_version(tmp_path, share=0.5))
    async with running(settings) as (client, app):
        assert (await client.get("/v2/models/digits")).json()["versions"] == ["1", "2"]
        Deployments(app.state.service.database).upsert(
            deployment("gone", "1", ModelSettings(bundle=tmp_path / "gone"))
        )
    with pytest.raises(ConfigurationError, match="stingy models unload"):
        create_app(settings)


async def test_P8_bundle_replaced_before_loading_is_not_served(
    running_one: tuple[httpx.AsyncClient, FastAPI], tmp_path: Path
) -> None:
    client, app = running_one
    service: Service = app.state.service
    deployments, rollout = Deployments(service.database), Rollout(service, [])
    desired = second_version(tmp_path, share=0.5)
    make_bundle(desired.settings.bundle, version="2", seed=1, policy="stingy:n=5")
    deployments.upsert(desired)
    await rollout.reconcile()
    reports = {report.version: report.fault for report in deployments.reports()}
    assert "expected the bundle that was loaded, got another" in str(reports["2"])
    assert (await client.get("/v2/models/digits")).json()["versions"] == ["1"]
    make_bundle(desired.settings.bundle, version="2", seed=1)  # as it was
    await Rollout(service, []).reconcile()
    assert (await client.get("/v2/models/digits")).json()["versions"] == ["1", "2"]


async def test_P8_bundle_replaced_before_a_restart_is_a_fault(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "1"))
    desired = second_version(tmp_path, share=0.5)
    async with running(settings) as (_, app):
        Deployments(app.state.service.database).upsert(desired)
    async with running(settings) as (client, _):
        assert (await client.get("/v2/models/digits")).json()["versions"] == ["1", "2"]
    make_bundle(desired.settings.bundle, version="2", seed=2)
    with pytest.raises(ConfigurationError, match="digits 2: expected the bundle that was loaded"):
        create_app(settings)


async def test_P7_loaded_policy_over_same_weights_warns_of_looser(
    running_one: tuple[httpx.AsyncClient, FastAPI],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, app = running_one
    service: Service = app.state.service
    deployments, rollout = Deployments(service.database), Rollout(service, [])
    bundle = tmp_path / "1"
    deployments.upsert(
        deployment("wide", "1", ModelSettings(bundle=bundle, name="wide", policy=WIDE))
    )
    await rollout.reconcile()
    (report,) = [report for report in deployments.reports() if report.name == "wide"]
    warning = (
        "digits 1, wide 1 serve the same weights: together they are at least as open as wide 1"
    )
    assert report.warnings == warning
    assert [record.message for record in caplog.records] == [warning]


async def test_loaded_version_whose_score_never_differs_is_warned_of(
    service: Service, tmp_path: Path
) -> None:
    deployments, rollout = Deployments(service.database), Rollout(service, [])
    deployments.upsert(second_version(tmp_path, share=0.5, policy="stingy:n=1"))
    await rollout.reconcile()
    (report,) = [report for report in deployments.reports() if report.version == "2"]
    note = "digits 2: one class leaves, so its score is always the same; see --policy stingy:n=2"
    assert note in report.warnings
