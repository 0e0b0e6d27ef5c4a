"""A version loaded beside others is not looser than they are, unless that was allowed."""

from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving import make_bundle, make_settings, running
from stingy_server import ConfigurationError, Database, ModelSettings, Settings, create_app
from stingy_server.cli.main import app as commands
from stingy_server.identity import bundle_digest
from stingy_server.models.endpoints import close_endpoints
from stingy_server.models.loading import load_bundles
from stingy_server.rollout import Rollout
from stingy_server.service import Service
from stingy_server.store.deployments import Deployment, Deployments

pytestmark = pytest.mark.anyio
BASE = "stingy:n=3"


def deployment(
    folder: Path,
    policy: str,
    *,
    version: str = "2",
    share: float | None = 0.5,
    looser: bool = False,
) -> Deployment:
    bundle = make_bundle(folder / version, version=version, seed=int(version))
    model = ModelSettings(bundle=bundle, policy=policy, share=share)
    settings = make_settings(folder / "s", model, allow_open=True)
    (loaded,), _ = load_bundles(settings, with_networks=False)
    digest = bundle_digest(loaded.manifest, loaded.policy)
    return Deployment("digits", version, model, digest, looser)


async def faults_after(service: Service, *deployed: Deployment) -> dict[str, str | None]:
    """Write rows as another command might, follow them, and return the fault of each version."""
    deployments = Deployments(service.database)
    for each in deployed:
        deployments.upsert(each)
    await Rollout(service, []).reconcile()
    return {report.version: report.fault for report in deployments.reports()}


def versions_of_a_start(settings: Settings) -> list[str]:
    """Start the application on what the state names, and return the versions of its model."""
    service: Service = create_app(settings).state.service
    versions = [endpoint.manifest.version for endpoint in service.fleet]
    close_endpoints(service.fleet)
    service.database.close()
    return versions


@pytest.mark.parametrize(
    ("policy", "more"),
    [
        ("stingy:n=4", "lets out more than"),
        ("stingy:n=3,decimals=4", "lets out more than"),
        ("ranked_labels:n=5", "lets out something else than"),
        ("open", "lets out more than"),
    ],
)
async def test_P11_looser_row_of_another_command_is_refused(
    tmp_path: Path, policy: str, more: str
) -> None:
    settings = make_settings(
        tmp_path / "s", make_bundle(tmp_path / "1", policy=BASE), allow_open=True
    )
    async with running(settings) as (client, app):
        service: Service = app.state.service
        fault = (await faults_after(service, deployment(tmp_path, policy)))["2"]
        assert fault is not None
        assert f"{more} stingy: top 3 of 10 classes" in fault
        assert "digits 1 in service" in fault
        assert "--looser" in fault
        assert (await client.get("/v2/models/digits")).json()["versions"] == ["1"]
    with pytest.raises(ConfigurationError, match="--looser"):
        create_app(settings)
    with closing(Database(tmp_path / "s")) as database:
        Deployments(database).upsert(deployment(tmp_path, policy, looser=True))
    assert versions_of_a_start(settings) == ["1", "2"]


@pytest.mark.parametrize("policy", [BASE, "label", "stingy:n=2", "ranked_labels:n=3"])
async def test_P11_row_that_is_no_looser_is_served(tmp_path: Path, policy: str) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "1", policy=BASE))
    async with running(settings) as (_, app):
        assert (await faults_after(app.state.service, deployment(tmp_path, policy)))["2"] is None


async def test_P11_version_as_loose_as_an_allowed_one_is_served(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "1", policy=BASE))
    rows = (
        deployment(tmp_path, "stingy:n=5", version="2", share=0.2),
        deployment(tmp_path, "stingy:n=6", version="3", share=0.2, looser=True),
    )
    async with running(settings) as (_, app):
        assert set((await faults_after(app.state.service, *rows)).values()) == {None}
    assert versions_of_a_start(settings) == ["1", "2", "3"]


def load(settings_file: Path, *arguments: str | Path) -> tuple[int, str]:
    ran = CliRunner().invoke(
        commands,
        ["models", "load", *map(str, arguments), "--share", "0", "--config", str(settings_file)],
    )
    return ran.exit_code, ran.output


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    """Write settings with one model, and make its state. No server runs."""
    bundle = make_bundle(tmp_path / "1", policy="stingy:n=9")
    file = tmp_path / "stingy.toml"
    file.write_text(
        f'state = "{tmp_path / "s"}"\ntrusted_factories = ["sample_networks"]\n'
        f'[[models]]\nbundle = "{bundle}"\npolicy = "{BASE}"\n',
        "utf-8",
    )
    Database(tmp_path / "s").close()
    return file


def test_P11_version_inherits_the_policy_in_service(settings_file: Path, tmp_path: Path) -> None:
    second = make_bundle(tmp_path / "2", version="2", policy="stingy:n=5")
    status, printed = load(settings_file, second)
    assert (status, "the policy in service: stingy: top 3 of 10" in printed) == (0, True)
    with closing(Database(tmp_path / "s")) as database:
        (row,) = Deployments(database).desired()
    assert (row.settings.policy, row.looser) == (BASE, False)


def test_P11_looser_version_is_refused_without_a_flag(settings_file: Path, tmp_path: Path) -> None:
    second = make_bundle(tmp_path / "2", version="2")
    status, printed = load(settings_file, second, "--policy", "ranked_labels:n=5")
    assert status == 2
    assert "ranked_labels: top 5 of 10 classes" in printed
    assert "lets out something else than stingy: top 3 of 10 classes" in printed
    assert load(settings_file, second, "--policy", "ranked_labels:n=5", "--looser")[0] == 0
    with closing(Database(tmp_path / "s")) as database:
        (row,) = Deployments(database).desired()
    assert row.looser
