"""The document of the page: its rows, and rows V5 and V8, what is never in it."""

import json
import re
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from checks import assert_nowhere
from console_pages import OPERATOR, add_entries, entry, make_state, opened
from sample_networks import canaries
from serving import make_bundle, make_settings, png, random_images, running
from stingy_server import Budgets, Database, Keys
from stingy_server.console.app import STATIC
from stingy_server.detection.key_profiles import KeyProfileStore, Observation
from stingy_server.store.budgets import key_owner
from stingy_server.store.deployments import Deployments, Report
from stingy_server.store.ledger import Ledger

N, K = 3, 10
MARKUP = '<img src=x onerror="fetch(1)"><script>alert(1)</script>'


@pytest.mark.anyio
async def test_row_of_a_key_has_budget_bits_and_last_request(
    tmp_path: Path, store: str | None
) -> None:
    ((key, _),) = make_state(tmp_path, "alice", store=store, per_day=100, tier="partner")
    with closing(Database(tmp_path, store=store)) as database:
        Budgets(database).reserve([key_owner(key.id)], 20)
        observed = Observation(images=20, bits=100.0, classes={"digits": (10, {3: 15, 4: 5})})
        KeyProfileStore(database).add(key.id, observed, alarm=0.9, ladder=[])
    add_entries(tmp_path, [entry(key.id, answered=20, images=20)], store=store)
    async with opened(tmp_path, store=store) as page:
        row = await page.key(key.id)
        detail = (await page.document(key=key.id))["detail"]
    assert (row["name"], row["tier"], row["state"]) == ("alice", "partner", "valid")
    assert (row["used"], row["total"], row["day_used"], row["day_total"]) == (20, 500, 20, 100)
    assert (row["bits"], row["images"], row["alarm"]) == (5.0, 20, False)
    assert abs(time.time() - row["last"]) < 60
    assert sum(row["minutes"]) == 20
    assert row["leak"] is None
    assert detail["classes"] == [
        {"model": "digits", "size": 10, "counts": [0, 0, 0, 15, 5, 0, 0, 0, 0, 0]}
    ]
    assert [each["images"] for each in detail["answered"]] == [20]
    assert [each["event"] for each in detail["entries"]] == ["answer"]


@pytest.mark.anyio
async def test_rows_say_which_keys_open_nothing(tmp_path: Path) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    (alice,) = make_state(tmp_path, "alice")
    (bob,) = make_state(tmp_path, "bob", expires=past)
    (carol,) = make_state(tmp_path, "carol")
    with closing(Database(tmp_path)) as database:
        Keys(database).revoke(carol[0].id)
    async with opened(tmp_path) as page:
        states = {row["id"]: row["state"] for row in (await page.document())["keys"]}
    assert states == {alice[0].id: "valid", bob[0].id: "expired", carol[0].id: "revoked"}


@pytest.mark.anyio
async def test_key_with_many_classes_has_at_most_a_hundred_bars(tmp_path: Path) -> None:
    ((key, _),) = make_state(tmp_path, "alice")
    with closing(Database(tmp_path)) as database:
        counts = {label: 1 for label in (0, 1, 999)}
        observed = Observation(images=3, bits=1.0, classes={"m": (1000, counts)})
        KeyProfileStore(database).add(key.id, observed, alarm=0.9, ladder=[])
    async with opened(tmp_path) as page:
        ((found,),) = [(await page.document(key=key.id))["detail"]["classes"]]
    assert (found["size"], len(found["counts"])) == (1000, 100)
    assert (found["counts"][0], found["counts"][99], sum(found["counts"])) == (2, 1, 3)


@pytest.mark.anyio
async def test_models_have_warnings_faults_and_processes(tmp_path: Path) -> None:
    make_state(tmp_path)
    warning = "a 1, b 1 serve the same weights: together they are at least as open as a 1"
    with closing(Database(tmp_path)) as database:
        deployments, now = Deployments(database), time.time()
        for process in ("p1", "p2"):
            reports = [
                Report(process, "a", "1", "top 2", None, None, now, warning),
                Report(process, "b", "1", "top 1", 0.25, None, now, warning),
                Report(process, "b", "2", "", None, "b 2: expected a bundle", now),
            ]
            deployments.report(process, reports)
    async with opened(tmp_path) as page:
        document = await page.document()
    assert document["server"] == {"ready": True, "processes": 2, "models": 2}
    a, b, broken = document["models"]
    assert (a["processes"], a["shares"], a["warnings"]) == (2, ["the rest"], [warning])
    assert (b["shares"], b["policies"]) == (["25%"], ["top 1"])
    assert (broken["processes"], broken["faults"]) == (0, ["b 2: expected a bundle"])


@pytest.mark.anyio
async def test_state_without_keys_or_servers_is_shown(tmp_path: Path) -> None:
    make_state(tmp_path)
    async with opened(tmp_path) as page:
        document = await page.document()
    assert (document["keys"], document["models"], document["entries"]) == ([], [], [])
    assert document["server"]["ready"] is False
    assert document["fault"] is None


@pytest.mark.anyio
async def test_V5_no_key_digest_or_output_reaches_the_page(tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path / "b",
        factory="sample_networks:Canary",
        policy=f"stingy:n={N},scores=logit,decimals=6",
        gain=1.0,
    )
    settings = make_settings(tmp_path / "s", bundle)
    async with running(settings) as (client, app):
        for image in random_images(3):
            sent = await client.post("/v1/predict/digits", content=png(image))
            assert sent.status_code == 200
        service = app.state.service
        service.watch.run_once(service.database)
        text = client.headers["Authorization"].removeprefix("Bearer ")
        ((key, _),) = service.keys.all()
        digests = [entry.pixels for _, entry in Ledger(service.database).entries() if entry.pixels]
        assert len(digests) == 3
        async with opened(settings.state, writer=OPERATOR) as page:
            page_bytes = json.dumps(await page.document(key=key.id, entries="answers"))
        answered = [each["event"] for each in json.loads(page_bytes)["detail"]["entries"]]
        assert answered == ["answer"] * 3
    for secret in (text, text.rpartition("_")[2], *digests):
        assert secret not in page_bytes
    # The digits of a time may be those of a logit by chance.
    timeless = re.sub(r"\d{10}\.\d+|\d\d:\d\d:\d\d\.\d+", "", page_bytes)
    assert_nowhere(canaries(K).tolist(), timeless.encode())
    assert service.database.pepper.hex() not in page_bytes


def test_V5_script_writes_texts_of_the_state_as_text_alone() -> None:
    scripts = [path.read_text(encoding="utf-8") for path in STATIC.glob("*.js")]
    assert len(scripts) > 5
    forbidden = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|srcdoc"
    for script in scripts:
        assert not re.search(forbidden, script)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", script)
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script>|\son\w+=|style=|https?://", html)


@pytest.mark.anyio
async def test_names_with_markup_stay_data(tmp_path: Path) -> None:
    ((key, _),) = make_state(tmp_path, MARKUP)
    async with opened(tmp_path) as page:
        response = await page.client.get("/state")
        assert response.headers["content-type"] == "application/json"
        assert (await page.key(key.id))["name"] == MARKUP
        assert MARKUP not in (await page.client.get("/")).text


@pytest.mark.anyio
async def test_V8_public_port_has_no_address_of_the_console(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, app), opened(settings.state) as page:
        assert (await page.client.get("/state")).status_code == 200
        for path in ("/state", "/console.js", "/keys/k/revoke"):
            assert (await client.get(path)).status_code == 404
        public = {str(getattr(route, "path", "")) for route in app.routes}
        assert not public & {"/", "/state", "/keys/{key}/release", "/keys/{key}/revoke"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://stingy") as stranger:
            assert (await stranger.get("/state")).status_code == 401
