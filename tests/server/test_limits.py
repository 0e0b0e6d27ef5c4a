"""Tiers, rates, budgets and concurrency limit each key, and the ledger records each request."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checks import metric_labels
from infer_requests import tensor
from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_protection import ScoreForm, build_policy
from stingy_server import ModelSettings, Tier, create_app
from stingy_server.detection.key_profiles import Action
from stingy_server.edge.tier_view import TierView
from stingy_server.errors import DRAINING, OVERLOADED, Refusal, error_response
from stingy_server.models.summary import summary
from stingy_server.store.ledger import Entry, Ledger

pytestmark = pytest.mark.anyio
IMAGES = random_images(8)


async def infer(
    client: httpx.AsyncClient, key: str, images: Any = IMAGES, model: str = "digits"
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return await client.post(f"/v2/models/{model}/infer", json=tensor(images), headers=headers)


def outputs(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {o["name"]: np.reshape(o["data"], o["shape"]) for o in response.json()["outputs"]}


def code(response: httpx.Response) -> str:
    return response.headers["X-Error-Code"]


TIERS: Mapping[str, Tier] = {
    "two": Tier(classes=2),
    "coarse": Tier(decimals=1),
    "labels": Tier(classes=1, scores="none"),
    "ranks": Tier(scores="rank"),
}


async def test_tier_makes_the_same_answer_smaller(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", policy="stingy:n=4")
    configured = make_settings(tmp_path / "s", bundle, tiers=TIERS, strict=True)
    async with running(configured) as (client, _):
        by_tier = {
            tier: outputs(await infer(client, make_key(configured.state, tier=tier)))
            for tier in ("full", *TIERS)
        }
    full = by_tier["full"]
    assert full["indices"].shape == (8, 4)
    for tier in TIERS:
        assert (by_tier[tier]["indices"][:, 0] == full["indices"][:, 0]).all()
    assert np.array_equal(by_tier["two"]["indices"], full["indices"][:, :2])
    assert np.exp(by_tier["two"]["scores"]).sum(axis=1) == pytest.approx(1, abs=2e-3)
    assert np.allclose(np.round(by_tier["coarse"]["scores"], 1), by_tier["coarse"]["scores"])
    assert "scores" not in by_tier["labels"]
    assert by_tier["labels"]["indices"].shape == (8, 1)
    assert by_tier["ranks"]["scores"].tolist() == [[1, 2, 3, 4]] * 8


async def test_metadata_describes_the_answers_of_the_tier(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", policy="stingy:n=4")
    configured = make_settings(tmp_path / "s", bundle, tiers=TIERS)
    fingerprints = set()
    async with running(configured) as (client, _):
        for tier in ("full", *TIERS):
            headers = {"Authorization": f"Bearer {make_key(configured.state, tier=tier)}"}
            metadata = (await client.get("/v2/models/digits", headers=headers)).json()
            answer = await client.post(
                "/v2/models/digits/infer", json=tensor(IMAGES), headers=headers
            )
            names = [output["name"] for output in metadata["outputs"]]
            assert set(outputs(answer)) == set(names) - {"logits"}
            assert outputs(answer)["indices"].shape[1] == metadata["parameters"]["support"]
            fingerprints.add(metadata["parameters"]["fingerprint"])
    assert len(fingerprints) == 5


async def test_key_of_an_unknown_tier_is_refused(tmp_path: Path) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, _):
        response = await infer(client, make_key(configured.state, tier="gone"))
        assert (response.status_code, code(response)) == (500, "refused")


@given(
    name=st.sampled_from(["stingy", "open", "rounded", "ranked_labels", "label"]),
    classes=st.one_of(st.none(), st.integers(1, 12)),
    decimals=st.one_of(st.none(), st.integers(0, 6)),
    scores=st.sampled_from(["keep", "rank", "none"]),
)
def test_tier_view_is_never_larger_than_the_policy(
    name: str, classes: int | None, decimals: int | None, scores: Any
) -> None:
    policy = build_policy(name, num_classes=10)
    view = TierView.of(policy, Tier(classes=classes, decimals=decimals, scores=scores))
    assert view.support <= policy.support
    assert view.decimals <= policy.decimals
    if policy.scores is ScoreForm.NONE:
        assert view.form is ScoreForm.NONE


async def test_request_over_rate_is_a_429_with_retry_after(tmp_path: Path) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, _):
        key = make_key(configured.state, rate="20/hour")
        first = await infer(client, key)
        assert first.headers["RateLimit-Limit"] == "20"
        assert first.headers["RateLimit-Remaining"] == "12"
        assert (await infer(client, key)).status_code == 200
        refused = await infer(client, key)
        assert (refused.status_code, code(refused)) == (429, "rate_limited")
        assert 0 < int(refused.headers["Retry-After"]) <= 3600
        assert (await infer(client, key, IMAGES[:4])).status_code == 200
        usage = await client.get("/v1/usage", headers={"Authorization": f"Bearer {key}"})
        assert usage.json()["used"] == 20


async def test_Q10_batch_that_its_rate_never_grants_is_a_413(tmp_path: Path) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, _):
        refused = await infer(client, make_key(configured.state, rate="7/minute"))
        assert (refused.status_code, code(refused)) == (413, "too_large")
        assert "Retry-After" not in refused.headers


async def test_request_over_day_budget_is_a_429_with_retry_after(tmp_path: Path) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, _):
        key = make_key(configured.state, budget=1000, per_day=10)
        assert (await infer(client, key)).status_code == 200
        refused = await infer(client, key)
        assert (refused.status_code, code(refused)) == (429, "budget_exhausted")
        assert 0 < int(refused.headers["Retry-After"]) <= 86_400
        spent = make_key(configured.state, budget=4)
        assert "Retry-After" not in (await infer(client, spent)).headers
        never = await infer(client, make_key(configured.state, budget=1000, per_day=2))
        assert "Retry-After" not in never.headers


async def test_model_budget_counts_the_images_of_all_keys(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    configured = make_settings(
        tmp_path / "s",
        ModelSettings(bundle=bundle, budget=20),
        ModelSettings(bundle=bundle, name="other"),
    )
    for _ in range(2):  # the budget lasts over a restart
        async with running(configured) as (client, _):
            answers = [await infer(client, make_key(configured.state)) for _ in range(3)]
            other_model = await infer(client, make_key(configured.state), model="other")
            assert other_model.status_code == 200
    assert [answer.status_code for answer in answers] == [429, 429, 429]


def test_P7_two_policies_over_same_weights_warn_of_the_looser(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    configured = make_settings(
        tmp_path / "s",
        ModelSettings(bundle=bundle, name="tight", policy="label"),
        ModelSettings(bundle=bundle, name="wide", policy="stingy:n=5"),
    )
    service = create_app(configured).state.service
    (warning,) = [line for line in summary(service.fleet, service.settings) if "warning" in line]
    assert "as open as wide" in warning
    service.database.close()


async def entries_after(tmp_path: Path, requests: Any) -> list[Entry]:
    """Send requests with one key, and return the entries of the ledger."""
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), max_body_bytes=50_000)
    async with running(configured, budget=20) as (client, app):
        for request in requests:
            await request(client)
        return [entry for _, entry in Ledger(app.state.service.database).entries()]


async def test_O1_every_request_has_one_entry_without_its_output(tmp_path: Path) -> None:
    path = "/v1/predict/digits"
    found = await entries_after(
        tmp_path,
        [
            lambda client: client.post(path, content=png(IMAGES[0])),
            lambda client: client.post("/v2/models/digits/infer", json=tensor(IMAGES)),
            lambda client: client.post("/v2/models/digits/infer", json=tensor(random_images(16))),
            lambda client: client.post(path, content=b"not an image"),
            lambda client: client.post("/v1/predict/other", content=png(IMAGES[0])),
            lambda client: client.post(path, content=bytes(60_000)),
            lambda client: client.get("/v1/usage"),
            lambda client: client.post(path, content=b"", headers={"Authorization": "Bearer x"}),
        ],
    )
    assert [(e.event, e.status, e.images, e.answered) for e in found] == [
        ("start", 0, 0, 0),
        ("answer", 200, 1, 1),
        ("answer", 200, 8, 8),
        ("budget_exhausted", 429, 16, 0),
        ("unsupported_image", 415, 1, 0),
        ("not_found", 404, 0, 0),
        ("too_large", 413, 0, 0),
    ]
    answer = found[1]
    assert (answer.model, answer.version) == ("digits", "1")
    assert answer.fingerprint == build_policy("stingy", num_classes=10).fingerprint
    assert answer.bits > 0
    assert answer.latency_us > 0
    assert found[5].model == "-"  # never a name that the client invented


async def test_O4_unwritable_ledger_lets_no_answer_out(tmp_path: Path) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, app):
        path = configured.state / "stingy.sqlite3"
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute(
                "CREATE TRIGGER full BEFORE INSERT ON ledger "
                "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert (response.status_code, code(response)) == (503, "store_unavailable")
            assert "class" not in response.text
            other.execute("DROP TRIGGER full")
        sample = app.state.service.metrics.registry.get_sample_value
        refused = {"model": "digits", "event": "store_unavailable"}
        assert sample("stingy_requests_total", refused) == 1
        assert sample("stingy_images_answered_total", {"model": "digits"}) is None
        later = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
        assert later.status_code == 200


async def test_Q8_metrics_ledger_and_budgets_agree(tmp_path: Path) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured, budget=30) as (client, app):
        for _ in range(5):
            await client.post("/v2/models/digits/infer", json=tensor(IMAGES))
        service = app.state.service
        sample = service.metrics.registry.get_sample_value
        answered = sample("stingy_images_answered_total", {"model": "digits"})
        refused = sample("stingy_requests_total", {"model": "digits", "event": "budget_exhausted"})
        recorded = sum(entry.answered for _, entry in Ledger(service.database).entries())
        ((_, budget),) = service.keys.all()
        assert answered == recorded == budget.used == 24
        service.refusals.write()
        counted = sum(e.requests for _, e in Ledger(service.database).entries() if e.status == 429)
        assert counted == refused == 2
        database = service.database
        service.refusals.write()
        counted = sum(e.requests for _, e in Ledger(database).entries() if e.status == 429)
        assert counted == refused


async def test_O3_hostile_names_add_no_metric_labels(tmp_path: Path) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, app):
        before = metric_labels(app.state.service.metrics.registry)
        for number in range(50):
            await client.post(f"/v1/predict/{number}", content=b"")
            await client.post("/v1/usage", headers={"Authorization": f"Bearer {number}"})
        assert len(metric_labels(app.state.service.metrics.registry) - before) < 8


async def test_H5_requests_over_max_concurrency_are_a_503(tmp_path: Path) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), max_concurrency=1)
    async with running(configured) as (client, _):
        responses = await asyncio.gather(
            *(client.post("/v1/predict/digits", content=png(IMAGES[0])) for _ in range(8))
        )
        statuses = sorted(response.status_code for response in responses)
        assert statuses[0] == 200
        assert statuses[-1] == 503
        assert {code(r) for r in responses if r.status_code == 503} == {"overloaded"}


async def test_H5_retry_after_of_overloaded_is_random() -> None:
    def retry_after(refusal: Refusal) -> set[str]:
        return {error_response(refusal, "-").headers["retry-after"] for _ in range(200)}

    assert retry_after(OVERLOADED) == {"1", "2", "3"}
    assert retry_after(DRAINING) == {"5"}


async def test_alarm_during_a_request_applies_from_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, app):
        steps = iter([Action.NONE, Action.LABELS])
        monkeypatch.setattr(app.state.service.watch, "action", lambda key: next(steps))
        answers = [outputs(await infer(client, make_key(configured.state))) for _ in range(2)]
    assert [set(names) for names in answers] == [{"indices", "scores"}, {"indices"}]


async def slow_body(content: bytes, meanwhile: Callable[[], object]) -> AsyncIterator[bytes]:
    """Yield a body, and call `meanwhile` before its last byte."""
    yield content[:-1]
    meanwhile()
    yield content[-1:]


POSTS = {
    "/v1/predict/digits": png(IMAGES[0]),
    "/v2/models/digits/infer": orjson.dumps(tensor(IMAGES)),
}


@pytest.mark.parametrize("path", POSTS)
async def test_alarm_before_the_end_of_a_body_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, app):
        action = Action.NONE
        monkeypatch.setattr(app.state.service.watch, "action", lambda key: action)

        def raise_alarm() -> None:
            nonlocal action
            action = Action.REFUSE

        response = await client.post(path, content=slow_body(POSTS[path], raise_alarm))
        assert (response.status_code, code(response)) == (403, "suspended")


async def test_Q4_answer_is_refunded_if_the_watch_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the watch has ended")

    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, app):
        monkeypatch.setattr(app.state.service.watch, "observe", broken)
        response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
        assert (response.status_code, code(response)) == (500, "internal")
        assert (await client.get("/v1/usage")).json()["used"] == 0
