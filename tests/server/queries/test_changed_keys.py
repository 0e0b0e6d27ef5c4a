"""Keys that an operator changes while they are in use, and keys for some models alone."""

from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from fastapi import FastAPI

from checks import all_requests
from infer_requests import code, infer, outputs, tensor
from serving import make_bundle, make_settings, random_images, running
from stingy_server import Keys, ModelSettings, Settings, Tier
from stingy_server.observability.request_record import RequestRecord
from stingy_server.store.database import Database
from stingy_server.store.key import KeySettings, Limits
from stingy_server.store.ledger import Ledger

pytestmark = pytest.mark.anyio
IMAGES = random_images(4)
INFER = "/v2/models/digits/infer"


def configured(tmp_path: Path) -> Settings:
    bundle = make_bundle(tmp_path / "b", policy="stingy:n=4")
    return make_settings(
        tmp_path / "s",
        ModelSettings(bundle=bundle),
        ModelSettings(bundle=bundle, name="letters"),
        tiers={"one": Tier(classes=1)},
    )


def set_key(database: Database, limits: Mapping[str, Limits] | None = None, **new: Any) -> None:
    """Change the one key, as `stingy keys set` does in another process."""

    def change(before: KeySettings) -> KeySettings:
        changed = before.limits if limits is None else {"": before.limits[""], **limits}
        return KeySettings(replace(before.key, **new), changed)

    with closing(database.reopen()) as other:
        ((key, _),) = Keys(other).all()
        assert Keys(other).set(key.id, change, describe=lambda old, new: {})


def used(app: FastAPI) -> int:
    ((_, budget),) = app.state.service.keys.all()
    return int(budget.used)


async def test_Q11_known_key_has_its_new_tier_from_the_next_query(tmp_path: Path) -> None:
    async with running(configured(tmp_path)) as (client, app):
        for tier, classes in (("full", 4), ("one", 1), ("full", 4)):
            set_key(app.state.service.database, tier=tier)
            indices = outputs(await infer(client, IMAGES))["indices"]
            assert indices["shape"] == [4, classes]
        assert used(app) == 12


async def test_Q11_key_changed_before_the_end_of_a_body_applies(tmp_path: Path) -> None:
    content = orjson.dumps(tensor(IMAGES))
    async with running(configured(tmp_path)) as (client, app):
        assert (await infer(client, IMAGES)).status_code == 200

        async def slow_body() -> AsyncIterator[bytes]:
            yield content[:-1]
            set_key(app.state.service.database, tier="one", rate="1000/minute")
            yield content[-1:]

        response = await client.post(INFER, content=slow_body())
        assert outputs(response)["indices"]["shape"] == [4, 1]
        assert response.headers["RateLimit-Remaining"] == "996"
        assert used(app) == 8


async def test_Q11_forbidden_model_is_refused_from_the_next_query(tmp_path: Path) -> None:
    async with running(configured(tmp_path)) as (client, app):
        assert (await infer(client, IMAGES)).status_code == 200
        set_key(app.state.service.database, models=frozenset({"letters"}))
        assert code(await infer(client, IMAGES)) == (404, "not_found")
        assert used(app) == 4
        assert (await infer(client, IMAGES, "letters")).status_code == 200
        set_key(app.state.service.database, models=None)
        assert (await infer(client, IMAGES)).status_code == 200
        entries = [entry for _, entry in Ledger(app.state.service.database).entries()]
        (refused,) = [entry for entry in entries if entry.event == "not_found"]
        assert (refused.model, refused.images, refused.answered) == ("-", 4, 0)


async def test_Q11_new_model_budget_is_charged_from_the_next_query(tmp_path: Path) -> None:
    async with running(configured(tmp_path)) as (client, app):
        assert (await infer(client, IMAGES)).status_code == 200
        set_key(app.state.service.database, {"digits": Limits(total=6)})
        answers = [await infer(client, IMAGES) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert (await infer(client, IMAGES, "letters")).status_code == 200
        assert used(app) == 12


@pytest.mark.parametrize("name", ["rate", "request_rate"])
async def test_Q11_raised_rate_is_granted_at_once(name: str, tmp_path: Path) -> None:
    async with running(configured(tmp_path)) as (client, app):
        for limit in ("4/day", "8/day", None):
            images = IMAGES if name == "rate" else IMAGES[:1]
            changed: dict[str, Any] = {name: limit}
            set_key(app.state.service.database, **changed)
            refused = 0
            while (answer := await infer(client, images)).status_code == 200 and limit:
                refused += 1
            assert refused > 0 or limit is None
            assert limit is None or code(answer) == (429, "rate_limited")
        assert answer.status_code == 200


async def test_Q11_readable_rate_is_granted_at_once(tmp_path: Path) -> None:
    async with running(configured(tmp_path)) as (client, app):
        database = app.state.service.database
        with closing(database.reopen()) as other:  # a text that release 0.1.0 took
            other.execute("UPDATE keys SET rate = '600/minute; 9/second'")
        assert code(await infer(client, IMAGES)) == (500, "refused")
        set_key(database, rate="600/minute")
        assert (await infer(client, IMAGES)).status_code == 200


async def test_Q11_configured_tier_is_granted_at_once(tmp_path: Path) -> None:
    async with running(configured(tmp_path)) as (client, app):
        set_key(app.state.service.database, tier="former")
        assert code(await infer(client, IMAGES)) == (500, "refused")
        set_key(app.state.service.database, tier="one")
        assert (await infer(client, IMAGES)).status_code == 200


async def test_Q11_lowered_rate_is_refused_at_once(tmp_path: Path) -> None:
    async with running(configured(tmp_path)) as (client, app):
        assert (await infer(client, IMAGES)).status_code == 200
        set_key(app.state.service.database, rate="3/day")
        assert code(await infer(client, IMAGES)) == (413, "too_large")
        assert used(app) == 4


async def test_Q11_raised_budget_of_a_spent_key_is_granted_at_once(tmp_path: Path) -> None:
    async with running(configured(tmp_path), budget=4) as (client, app):
        assert (await infer(client, IMAGES)).status_code == 200
        assert code(await infer(client, IMAGES)) == (429, "budget_exhausted")
        set_key(app.state.service.database, {"": Limits(total=8)})
        assert (await infer(client, IMAGES)).status_code == 200
        assert code(await infer(client, IMAGES)) == (429, "budget_exhausted")


def fixed(response: httpx.Response, name: str) -> tuple[int, dict[str, str], bytes]:
    """Return a response without what differs between any two requests."""
    varying = ("x-request-id", "date", "content-length")
    headers = {each: text for each, text in response.headers.items() if each not in varying}
    body = response.content.replace(response.headers["x-request-id"].encode(), b"")
    return response.status_code, headers, body.replace(name.encode(), b"MODEL")


async def test_A7_forbidden_model_looks_like_none_in_every_route(tmp_path: Path) -> None:
    async with running(configured(tmp_path)) as (client, app):
        set_key(app.state.service.database, models=frozenset({"digits"}))
        tried = 0
        for method, path in all_requests(app):
            if "/digits" not in path:
                continue
            answers = []
            for name in ("letters", "numbers"):
                other = path.replace("/digits", f"/{name}")
                answers.append(fixed(await client.request(method, other, content=b"{"), name))
            assert answers[0] == answers[1], (method, path)
            tried += 1
        assert tried >= 40
        assert used(app) == 0
        entries = [entry for _, entry in Ledger(app.state.service.database).entries()]
        assert {entry.model for entry in entries} == {"-"}


async def test_A7_no_route_lists_a_forbidden_model(tmp_path: Path) -> None:
    async with running(configured(tmp_path)) as (client, app):
        set_key(app.state.service.database, models=frozenset({"digits"}))
        for method, path in all_requests(app):
            response = await client.request(method, path, content=b"{}")
            assert b"letters" not in response.content, (method, path)


async def test_endpoints_of_a_key_are_those_it_may_query(tmp_path: Path) -> None:
    async with running(configured(tmp_path)) as (_, app):
        service = app.state.service
        for models, names in ((None, ["digits", "letters"]), (frozenset({"letters"}), ["letters"])):
            key, _ = service.keys.create("k", budget=1, models=models)
            found = service.endpoints(RequestRecord("-", 0.0, key=key))
            assert [endpoint.name for endpoint in found] == names
        assert service.endpoints(RequestRecord("-", 0.0)) == []


@pytest.mark.parametrize("permitted", [frozenset(), frozenset({"digits", "letters"}), None])
def test_key_may_query_the_models_it_names(
    permitted: frozenset[str] | None, tmp_path: Path
) -> None:
    with closing(Database(tmp_path / "s")) as database:
        key, _ = Keys(database).create("k", budget=1, models=permitted)
        ((stored, _),) = Keys(database).all()
    assert stored == key
    assert key.may_query("digits") == (permitted is None or "digits" in permitted)
