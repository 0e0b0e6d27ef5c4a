"""Queries with tokens: principals are charged, watched, limited and denied like keys."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from infer_requests import IMAGES, code, infer
from issuer import JWKS, Issuer, forge, make_private, public_pem, running_issuer
from serving import make_bundle, make_key, make_settings, png, running
from stingy_server import Keys, Settings
from stingy_server.oidc import key_source
from stingy_server.service import Service
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.key import Key
from stingy_server.store.ledger import Ledger

pytestmark = pytest.mark.anyio
PREDICT, USAGE = "/v1/predict/digits", "/v1/usage"
IMAGE = png(IMAGES[0])


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


def settings_of(folder: Path, issuer: Issuer, *, tiers: Any = None, **oidc: Any) -> Settings:
    bundle = folder / "b"
    if not bundle.exists():
        make_bundle(bundle)
    return make_settings(
        folder / "s",
        bundle,
        tiers=tiers or {"partner": {"classes": 1, "scores": "none"}},
        oidc=issuer.settings(**oidc),
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def principals(service: Service) -> list[Key]:
    return [key for key, _ in service.keys.all() if key.id.startswith("oidc-")]


def used(service: Service, name: str = "alice") -> int:
    return sum(budget.used for key, budget in service.keys.all() if key.name == name)


async def test_J2_principal_is_a_digest_and_queries_like_a_key(
    tmp_path: Path, issuer: Issuer
) -> None:
    async with running(settings_of(tmp_path, issuer, budget=20)) as (client, app):
        service: Service = app.state.service
        for _ in range(2):  # two tokens of one principal
            headers = bearer(issuer.token(jti=str(time.monotonic())))
            for _ in range(3):
                answered = await client.post(PREDICT, content=IMAGE, headers=headers)
                assert answered.status_code == 200
        usage = (await client.get(USAGE, headers=headers)).json()
        assert (usage["used"], usage["budget"], usage["remaining"]) == (6, 20, 14)
        (principal,) = principals(service)
        assert principal.id == usage["key"]
        assert len(principal.id) == len("oidc-") + 32
        assert principal.name == "alice"
        await client.post(PREDICT, content=IMAGE, headers=bearer(issuer.token("bob")))
        assert len(principals(service)) == 2
        keys = [entry.key for _, entry in Ledger(service.database).entries() if entry.answered]
        assert keys.count(principal.id) == 6
        assert issuer.requests == [JWKS]


async def test_J2_no_text_is_the_key_of_a_principal(tmp_path: Path, issuer: Issuer) -> None:
    async with running(settings_of(tmp_path, issuer)) as (client, app):
        service: Service = app.state.service
        token = issuer.token()
        assert (await client.get(USAGE, headers=bearer(token))).status_code == 200
        (principal,) = principals(service)
        assert service.keys.rotate(principal.id) is None
        for text in (principal.id, f"stingy_{principal.id}_x", "alice", f"{token}x", f"x{token}"):
            response = await client.get(USAGE, headers=bearer(text))
            assert code(response) == (401, "unauthenticated")
        assert service.keys.authenticate(token) is None


async def test_J1_forged_token_opens_no_route_and_makes_no_principal(
    tmp_path: Path, issuer: Issuer
) -> None:
    claims = issuer.claims()
    public = public_pem(issuer.privates["first"])
    forged = [
        forge({"alg": "none", "kid": "first"}, claims, secret=None),
        forge({"alg": "HS256", "kid": "first"}, claims, secret=public),
        issuer.token(private=make_private("ES256")),
        issuer.token(key_id="unknown", private=make_private("ES256")),
        issuer.token(iss="https://other.example.org"),
        issuer.token(aud="other"),
        issuer.token(exp=int(time.time()) - 1),
        issuer.token(exp=int(time.time()) + 7200),
        "a.b.c",
        "..",
        "x" * 9000,
    ]
    async with running(settings_of(tmp_path, issuer)) as (client, app):
        bodies = set()
        for text in forged:
            for response in (
                await client.post(PREDICT, content=IMAGE, headers=bearer(text)),
                await client.get(USAGE, headers=bearer(text)),
                await client.get("/nowhere", headers=bearer(text)),
            ):
                assert code(response) == (401, "unauthenticated")
                bodies.add(response.text.replace(response.headers["x-request-id"], ""))
        assert len(bodies) == 1
        assert principals(app.state.service) == []


async def test_J1_known_token_ends_with_its_expiry(tmp_path: Path, issuer: Issuer) -> None:
    async with running(settings_of(tmp_path, issuer)) as (client, _):
        end = int(time.time()) + 2
        headers = bearer(issuer.token(exp=end))
        statuses = set()
        while time.time() < end + 0.2:
            found = await client.post(PREDICT, content=IMAGE, headers=headers)
            statuses.add(found.status_code)
        assert statuses == {200, 401}


async def test_J2_revoked_principal_is_denied_with_every_token(
    tmp_path: Path, issuer: Issuer
) -> None:
    async with running(settings_of(tmp_path, issuer)) as (client, app):
        service: Service = app.state.service
        known = bearer(issuer.token())
        assert (await client.post(PREDICT, content=IMAGE, headers=known)).status_code == 200
        (principal,) = principals(service)
        with closing(service.database.reopen()) as other_process:
            assert Keys(other_process).revoke(principal.id)
        for headers in (known, bearer(issuer.token(jti="new"))):
            for response in (
                await client.post(PREDICT, content=IMAGE, headers=headers),
                await client.post(PREDICT, content=b"no image", headers=headers),
                await client.get(USAGE, headers=headers),
            ):
                assert code(response) == (401, "unauthenticated")
        other = bearer(issuer.token("bob"))
        assert (await client.post(PREDICT, content=IMAGE, headers=other)).status_code == 200
        assert used(service) == 1
    async with running(settings_of(tmp_path, issuer)) as (client, _):  # after a restart
        assert code(await client.get(USAGE, headers=known)) == (401, "unauthenticated")


async def test_J2_change_of_another_key_keeps_known_tokens(tmp_path: Path, issuer: Issuer) -> None:
    async with running(settings_of(tmp_path, issuer)) as (client, app):
        service: Service = app.state.service
        headers = bearer(issuer.token())
        assert (await client.post(PREDICT, content=IMAGE, headers=headers)).status_code == 200
        other, _ = service.keys.create("other", budget=1)
        assert service.keys.revoke(other.id)
        assert (await client.post(PREDICT, content=IMAGE, headers=headers)).status_code == 200
        assert used(service) == 2


async def test_J3_tier_claim_names_a_configured_tier(tmp_path: Path, issuer: Issuer) -> None:
    settings = settings_of(tmp_path, issuer, tier_claim="tier")
    async with running(settings) as (client, app):
        classes = {}
        for tier in ("partner", "full"):
            headers = bearer(issuer.token(tier=tier))
            answer = (await client.post(PREDICT, content=IMAGE, headers=headers)).json()
            classes[tier] = answer["answers"][0]["classes"]
        assert len(classes["partner"]) == 1
        assert "score" not in classes["partner"][0]
        assert "score" in classes["full"][0]
        for other in ("Partner", "admin", "", 7, ["partner"], None):
            headers = bearer(issuer.token("mallory", tier=other))
            response = await client.post(PREDICT, content=IMAGE, headers=headers)
            assert code(response) == (401, "unauthenticated")
        assert [key.name for key in principals(app.state.service)] == ["alice"]


async def test_J3_tier_of_the_settings_holds_without_a_claim(
    tmp_path: Path, issuer: Issuer
) -> None:
    async with running(settings_of(tmp_path, issuer, tier="partner")) as (client, _):
        headers = bearer(issuer.token(tier="full"))
        answer = (await client.post(PREDICT, content=IMAGE, headers=headers)).json()
        assert "score" not in answer["answers"][0]["classes"][0]


async def test_J4_many_principals_share_one_total(tmp_path: Path, issuer: Issuer) -> None:
    settings = settings_of(tmp_path, issuer, total_budget=30, budget=20)
    async with running(settings) as (client, app):

        async def query(number: int) -> int:
            headers = bearer(issuer.token(f"sybil {number % 10}", jti=str(number)))
            response = await client.post(PREDICT, content=IMAGE, headers=headers)
            assert code_or_ok(response) in (200, "budget_exhausted")
            return response.status_code

        statuses = await asyncio.gather(*[query(number) for number in range(60)])
        assert statuses.count(200) == 30
        service: Service = app.state.service
        assert sum(used(service, f"sybil {number}") for number in range(10)) == 30
        key = await client.post(PREDICT, content=IMAGE)  # keys have no part in it
        assert key.status_code == 200
        assert (await client.get(USAGE, headers=bearer(issuer.token("new")))).status_code == 200


async def test_J4_organisation_shares_one_budget(tmp_path: Path, issuer: Issuer) -> None:
    settings = settings_of(
        tmp_path, issuer, organisation_claim="org", organisation_budget=5, total_budget=8
    )
    async with running(settings) as (client, _):
        counts = {}
        for org in ("acme", "bolt"):
            statuses = [
                (
                    await client.post(
                        PREDICT, content=IMAGE, headers=bearer(issuer.token(subject, org=org))
                    )
                ).status_code
                for subject in ("alice", "bob", "carol", "dave")
                for _ in range(2)
            ]
            counts[org] = statuses.count(200)
        assert counts == {"acme": 5, "bolt": 3}
        response = await client.post(PREDICT, content=IMAGE, headers=bearer(issuer.token()))
        assert code(response) == (401, "unauthenticated")  # without the claim


async def test_J4_refused_batch_is_refunded_to_every_budget(tmp_path: Path, issuer: Issuer) -> None:
    settings = settings_of(tmp_path, issuer, total_budget=1)
    async with running(settings) as (client, _):
        headers = bearer(issuer.token())
        for body in (b"no image", IMAGE[:40]):
            response = await client.post(PREDICT, content=body, headers=headers)
            assert response.status_code in (415, 422)
        assert (await client.post(PREDICT, content=IMAGE, headers=headers)).status_code == 200
        response = await client.post(PREDICT, content=IMAGE, headers=headers)
        assert code(response) == (429, "budget_exhausted")


async def test_J4_budget_of_a_principal_stays_as_an_operator_sets_it(
    tmp_path: Path, issuer: Issuer
) -> None:
    settings = settings_of(tmp_path, issuer, budget=1)
    headers = bearer(issuer.token())
    async with running(settings) as (client, app):
        assert (await client.get(USAGE, headers=headers)).json()["budget"] == 1
        service: Service = app.state.service
        (principal,) = principals(service)
        service.budgets.set(f"key:{principal.id}", total=7, day_total=None)
    async with running(settings) as (client, _):
        assert (await client.get(USAGE, headers=headers)).json()["budget"] == 7


async def test_J5_endpoint_that_hangs_never_delays_a_key(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_source, "DEADLINE_S", 2.0)
    issuer.hanging = True
    async with running(settings_of(tmp_path, issuer)) as (client, _):
        headers = bearer(issuer.token())
        waiting = [asyncio.create_task(client.get(USAGE, headers=headers)) for _ in range(20)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        for _ in range(10):
            assert (await client.post(PREDICT, content=IMAGE)).status_code == 200
        assert time.monotonic() - began < 1.5
        assert not any(task.done() for task in waiting)
        for response in await asyncio.gather(*waiting):
            assert code(response) == (401, "unauthenticated")
        assert issuer.requests == [JWKS]


async def test_J5_token_of_a_removed_key_ends_with_the_next_fetch(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_source, "PAUSE_S", 0.0)
    async with running(settings_of(tmp_path, issuer)) as (client, _):
        old = bearer(issuer.token())
        assert (await client.post(PREDICT, content=IMAGE, headers=old)).status_code == 200
        issuer.privates = {"second": make_private("ES256")}
        new = bearer(issuer.token("bob", key_id="second"))
        assert (await client.post(PREDICT, content=IMAGE, headers=new)).status_code == 200
        response = await client.post(PREDICT, content=IMAGE, headers=old)
        assert code(response) == (401, "unauthenticated")


async def test_A3_store_that_fails_makes_a_token_a_503(tmp_path: Path, issuer: Issuer) -> None:
    async with running(settings_of(tmp_path, issuer)) as (client, app):
        headers = bearer(issuer.token())
        assert (await client.get(USAGE, headers=headers)).status_code == 200

        def fail(*_: object, **__: object) -> None:
            raise StoreUnavailable("gone")

        app.state.service.database.execute = fail
        app.state.service.keys._database.execute = fail
        response = await client.get(USAGE, headers=headers)
        assert code(response) == (503, "store_unavailable")


async def test_tokens_are_refused_without_the_setting(tmp_path: Path, issuer: Issuer) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        response = await client.get(USAGE, headers=bearer(issuer.token()))
        assert code(response) == (401, "unauthenticated")
    assert issuer.requests == []


async def test_principals_are_exact_in_each_store(
    tmp_path: Path, issuer: Issuer, store: str | None
) -> None:
    settings = settings_of(
        tmp_path, issuer, total_budget=10, organisation_claim="org", organisation_budget=6
    ).model_copy(update={"store": store})
    make_key(settings.state, store=store)
    async with running(settings) as (client, app):
        statuses = await asyncio.gather(
            *[
                client.post(
                    PREDICT,
                    content=IMAGE,
                    headers=bearer(issuer.token(f"s{number % 4}", org="acme", jti=str(number))),
                )
                for number in range(20)
            ]
        )
        assert [response.status_code for response in statuses].count(200) == 6
        (revoked, *_) = principals(app.state.service)
        assert app.state.service.keys.revoke(revoked.id)
        response = await infer(client, IMAGES[:1])
        assert response.status_code == 200


def code_or_ok(response: httpx.Response) -> int | str:
    return 200 if response.status_code == 200 else str(response.json()["error"]["code"])
