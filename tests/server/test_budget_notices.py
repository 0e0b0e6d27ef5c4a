"""Notices of budgets at 80 and 95 %: in the ledger, in a metric and at a webhook."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import generate_latest

from infer_requests import infer
from serving import make_bundle, make_settings, random_images, running
from stingy_server import ConfigurationError, ModelSettings, create_app
from stingy_server.store.key import Limits
from stingy_server.store.ledger import Ledger
from webhook_receiver import receiver, silent_receiver, wait_for

pytestmark = pytest.mark.anyio
IMAGES = random_images(10)
SECRET = "a secret of many bytes"
EVENTS = ("budget_80", "budget_95")


def webhook(tmp_path: Path, url: str) -> dict[str, Any]:
    (tmp_path / "secret").write_text(SECRET)
    return {"webhook_url": url, "webhook_secret_file": tmp_path / "secret"}


def use_key(client: httpx.AsyncClient, app: FastAPI, **options: Any) -> str:
    """Make a key, let the client send it, and return its id."""
    key, text = app.state.service.keys.create("alice", **{"budget": None, **options})
    client.headers["Authorization"] = f"Bearer {text}"
    return str(key.id)


def notices(app: FastAPI) -> list[tuple[str, str, str, str]]:
    entries = [entry for _, entry in Ledger(app.state.service.database).entries()]
    return [(e.event, e.key, e.model, numbers(e.detail)) for e in entries if e.event in EVENTS]


def numbers(detail: str | None) -> str:
    fields = json.loads(detail or "{}")
    return f"{fields['period']}: {fields['used']} of {fields['limit']}"


async def test_Q12_shares_of_all_budgets_are_reported(tmp_path: Path) -> None:
    bundle = ModelSettings(bundle=make_bundle(tmp_path / "b"), budget_per_month=10)
    with receiver() as received:
        configured = make_settings(tmp_path / "s", bundle, **webhook(tmp_path, received.url))
        async with running(configured) as (client, app):
            key = use_key(client, app, budget=12, model_limits={"digits": Limits(per_day=9)})
            for count in (7, 1, 1):
                assert (await infer(client, IMAGES[:count])).status_code == 200
            assert (await infer(client, IMAGES[:1])).status_code == 429
            assert sorted(notices(app)) == [
                ("budget_80", "-", "digits", "month: 8 of 10"),
                ("budget_80", key, "digits", "day: 8 of 9"),
                ("budget_95", key, "digits", "day: 9 of 9"),
            ]
            wait_for(lambda: len(received.posts) == 3)
            page = generate_latest(app.state.service.metrics.registry).decode()
    labels = 'stingy_budget_notices_total{budget="key_model",percent="95",period="day"} 1.0'
    assert labels in page
    assert 'stingy_webhooks_total{outcome="delivered"} ' in page
    (last,) = [document for document in received.documents if document["percent"] == 95]
    assert len(last.pop("id")) == 16
    assert last.pop("time")[:2] == "20"
    assert last == {
        "event": "budget_95",
        "owner": f"key:{key}:digits",
        "key": key,
        "name": "alice",
        "model": "digits",
        "period": "day",
        "percent": 95,
        "limit": 9,
        "used": 9,
    }
    assert [(d["key"], d["name"]) for d in received.documents if d["limit"] == 10] == [(None, None)]


async def test_O6_silent_receiver_delays_no_request(tmp_path: Path) -> None:
    with silent_receiver() as url:
        options = webhook(tmp_path, url)
        configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), **options)
        async with running(configured) as (client, app):
            use_key(client, app, budget=10)
            began = time.monotonic()
            for _ in range(10):
                assert (await infer(client, IMAGES[:1])).status_code == 200
            assert time.monotonic() - began < 3.0
            assert [event for event, *_ in notices(app)] == ["budget_80", "budget_95"]


async def test_Q12_notice_is_in_the_transaction_of_its_charge(tmp_path: Path) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(configured) as (client, app):
        key = use_key(client, app, budget=10)
        database = app.state.service.database
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON ledger WHEN NEW.event = 'budget_80' "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
        assert (await infer(client, IMAGES[:8])).status_code == 503
        budget = app.state.service.budgets.get(f"key:{key}")
        assert (budget.used, notices(app)) == (0, [])
        database.execute("DROP TRIGGER full")
        assert (await infer(client, IMAGES[:8])).status_code == 200
        assert [event for event, *_ in notices(app)] == ["budget_80"]


@pytest.mark.parametrize("given", ["webhook_url", "webhook_secret_file", "no such file"])
def test_webhook_without_a_secret_is_a_fault(tmp_path: Path, given: str) -> None:
    options = webhook(tmp_path, "https://example.org/hook")
    if given == "no such file":
        (tmp_path / "secret").unlink()
    else:
        options = {given: options[given]}
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), **options)
    with pytest.raises(ConfigurationError, match="webhook"):
        create_app(configured)
    assert not (tmp_path / "s").exists()
