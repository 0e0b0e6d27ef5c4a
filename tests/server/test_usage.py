"""`/v1/usage`: the budgets of a key, what is used of them, and when they reset."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infer_requests import code, infer
from serving import make_bundle, make_settings, random_images, running
from stingy_clients import Usage
from stingy_server import ModelSettings
from stingy_server.edge.usage_view import usage_document
from stingy_server.store.budget import Budget
from stingy_server.store.key import Key, Limits
from stingy_server.times import DAY_S

IMAGES = random_images(4)
KEY = Key("1a2b", "alice", "full", None, None, "", None, None)
DAY = 20_423  # 1 December 2025
MONTH = 671


def test_usage_has_every_limit_with_its_reset() -> None:
    budget = Budget(100, 30, 10, DAY, 7, 50, MONTH, 20)
    own = {"cats": Budget(40, 3, None, DAY - 1, 3)}
    document = usage_document(KEY, budget, own, now=DAY * DAY_S + 60.0)
    assert document == {
        "key": "1a2b",
        "budget": 100,
        "used": 30,
        "remaining": 3,
        "day": {"budget": 10, "used": 7, "resets": "2025-12-02T00:00:00Z"},
        "month": {"budget": 50, "used": 20, "resets": "2026-01-01T00:00:00Z"},
        "models": {
            "cats": {
                "budget": 40,
                "used": 3,
                "remaining": 37,
                "day": {"budget": None, "used": 0, "resets": "2025-12-02T00:00:00Z"},
                "month": {"budget": None, "used": 0, "resets": "2026-01-01T00:00:00Z"},
            }
        },
    }


def test_usage_of_a_day_that_opened_early_resets_later() -> None:
    budget = Budget(None, 7, 10, DAY + 2, 7)
    day = usage_document(KEY, budget, {}, now=DAY * DAY_S)["day"]
    assert day == {"budget": 10, "used": 7, "resets": "2025-12-04T00:00:00Z"}


@pytest.mark.anyio
async def test_usage_counts_the_budgets_of_single_models(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    configured = make_settings(
        tmp_path / "s", ModelSettings(bundle=bundle), ModelSettings(bundle=bundle, name="letters")
    )
    async with running(configured) as (client, app):
        _, text = app.state.service.keys.create(
            "k",
            budget=100,
            per_day=90,
            per_month=80,
            model_limits={"digits": Limits(per_month=5)},
        )
        client.headers["Authorization"] = f"Bearer {text}"
        assert (await infer(client, IMAGES)).status_code == 200
        assert (await infer(client, IMAGES, "letters")).status_code == 200
        refused = await infer(client, IMAGES)
        assert code(refused) == (429, "budget_exhausted")
        usage = Usage.model_validate_json((await client.get("/v1/usage")).content, strict=True)
    assert (usage.used, usage.remaining) == (8, 72)
    assert usage.day is not None
    assert (usage.day.budget, usage.day.used) == (90, 8)
    own = usage.models["digits"]
    assert own.month is not None
    assert (own.used, own.month.budget, own.month.used, own.remaining) == (4, 5, 4, 1)
    now = datetime.now(UTC)
    assert now < usage.day.resets <= now + timedelta(days=1)
    wait = timedelta(seconds=int(refused.headers["Retry-After"]))
    assert abs(now + wait - own.month.resets) < timedelta(minutes=1)


@pytest.mark.anyio
async def test_Q6_retry_after_of_a_spent_month_is_its_end(tmp_path: Path) -> None:
    bundle = ModelSettings(bundle=make_bundle(tmp_path / "b"), budget_per_month=4)
    async with running(make_settings(tmp_path / "s", bundle)) as (client, _):
        assert (await infer(client, IMAGES)).status_code == 200
        refused = await infer(client, IMAGES)
    assert code(refused) == (429, "budget_exhausted")
    now = datetime.now(UTC)
    opens = now + timedelta(seconds=int(refused.headers["Retry-After"]))
    assert opens.month != now.month
    assert (opens - timedelta(minutes=1)).month == now.month
