"""Rows F1 and F3: what the page shows is what leaves, and a gain is one that was measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sample_networks import canaries
from serving import make_bundle, make_settings, png, random_images, running
from stingy_protection import LogitsRejected, Open, build_policy, row_bits, sanitize
from stingy_server.queries.tiers import tighten_to_tier
from stingy_server.settings import Tier
from stingy_server.tryout.choice import Chooser
from stingy_server.tryout.view import (
    SHOWN_KEPT,
    SHOWN_WITHHELD,
    folder_fields,
    image_fields,
    policy_fields,
)
from stingy_server.tryout.workbench import Known
from try_pages import TIERS, assert_tier_shows_no_more, left, make_report, numbers, opened

IMAGE = png(random_images(1)[0])
POLICIES = [
    "stingy:n=3",
    "open",
    "label",
    "ranked_labels:n=4",
    "rounded",
    "reversed",
    "stingy_smooth",
]


def known_of(logits: torch.Tensor) -> Known:
    return Known(logits, torch.zeros_like(logits))


@pytest.mark.anyio
@pytest.mark.parametrize("policy", POLICIES)
async def test_F1_column_is_what_the_server_answers(tmp_path: Path, policy: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", policy=policy)
    settings = make_settings(tmp_path / "state", bundle, allow_open=True)
    async with running(settings) as (client, _):
        sent = await client.post(
            "/v1/predict/digits", content=IMAGE, headers={"Content-Type": "image/png"}
        )
        answered = sent.json()["answers"][0]["classes"]
    async with opened(bundle) as page:
        view = await page.view_of(IMAGE)
    expected = {each["label"]: f"{each['score']:.10g}" for each in answered if "score" in each}
    assert numbers(view, "policy") == expected
    assert left(view, "policy") == {each["label"] for each in answered}


@pytest.mark.anyio
@pytest.mark.parametrize("n", [1, 2, 3, 9])
async def test_F1_n_classes_leave_and_no_other_number(tmp_path: Path, n: int) -> None:
    async with opened(make_bundle(tmp_path / "bundle")) as page:
        view = await page.view_of(IMAGE, n=n, tier="partner")
    assert len(numbers(view, "policy")) == n
    assert view["image"]["withheld"] == {"policy": 10 - n, "tier": 9, "label": 9}
    assert view["image"]["rest"]["leaves"] == {"policy": 0, "tier": 0, "label": 0}
    cells = [row["leaves"]["policy"] for row in view["image"]["rows"]]
    assert [cell for cell in cells if cell is None] == [None] * (len(cells) - n)


@pytest.mark.anyio
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("policy", POLICIES)
async def test_F1_tier_shows_no_more_than_the_policy(
    tmp_path: Path, policy: str, tier: str
) -> None:
    async with opened(make_bundle(tmp_path / "bundle", policy=policy)) as page:
        view = await page.view_of(IMAGE, tier=tier)
    assert left(view, "tier") <= left(view, "policy")
    bits = view["image"]["bits"]
    assert bits["label"] <= bits["tier"] <= bits["policy"] <= bits["model"] == 32.0


@given(
    n=st.integers(1, 10),
    decimals=st.integers(0, 6),
    classes=st.none() | st.integers(1, 12),
    most=st.none() | st.integers(0, 6),
    scores=st.sampled_from(["keep", "rank", "none"]),
    seed=st.integers(0, 2**16),
)
def test_F1_no_tier_shows_more_than_its_policy(
    n: int, decimals: int, classes: int | None, most: int | None, scores: Any, seed: int
) -> None:
    rows = torch.randn(3, 10, generator=torch.Generator().manual_seed(seed)) * 5
    policy = build_policy("stingy", num_classes=10, n=n, decimals=decimals)
    tier = Tier(classes=classes, decimals=most, scores=scores)
    assert_tier_shows_no_more(tighten_to_tier, sanitize(policy, rows), tier)


def test_F1_gate_refuses_logits_that_are_not_finite(tmp_path: Path) -> None:
    choice = Chooser("stingy", num_classes=10, tiers={}).choose({})
    broken = known_of(torch.full((1, 10), torch.nan))
    with pytest.raises(LogitsRejected):
        folder_fields(choice, broken, np.zeros(1, np.int64))


@pytest.mark.anyio
async def test_bits_are_those_of_the_leak_meter(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", factory="sample_networks:Canary", gain=1.0)
    async with opened(bundle) as page:
        view = await page.view_of(IMAGE)
    answer = sanitize(build_policy("stingy", num_classes=10), canaries(10)[None])
    assert view["image"]["bits"]["policy"] == row_bits(answer)[0]
    logits = [row["logit"] for row in view["image"]["rows"]]
    assert logits == [f"{value:.3f}" for value in canaries(10).tolist()[: len(logits)]]


def test_rows_of_many_classes_are_few_and_the_rest_is_counted() -> None:
    manifest: Any = type("Manifest", (), {"classes": tuple(f"c{i}" for i in range(1000))})()
    known = known_of(torch.arange(1000.0).flip(0)[None])
    chooser = Chooser("stingy:n=60", num_classes=1000, tiers={})
    shown = image_fields(chooser.choose({}), known, manifest)
    assert len(shown["rows"]) == SHOWN_KEPT + SHOWN_WITHHELD
    assert shown["rest"]["count"] == 1000 - SHOWN_KEPT - SHOWN_WITHHELD
    assert shown["rest"]["leaves"] == {
        "policy": 60 - SHOWN_KEPT,
        "tier": 60 - SHOWN_KEPT,
        "label": 0,
    }
    assert [row["label"] for row in shown["rows"]][:2] == ["c0", "c1"]


def test_use_of_a_folder_is_that_of_an_audit() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0], [0.0, 2.0, 1.0]])
    choice = Chooser("stingy:n=2", num_classes=3, tiers={}).choose({})
    use = folder_fields(choice, known_of(logits), np.array([0, 1, 0]))
    assert [round(use[name]["top1"], 1) for name in ("model", "policy", "label")] == [33.3] * 3
    assert [round(use[name]["top5"], 1) for name in ("model", "policy", "label")] == [
        100.0,
        66.7,
        33.3,
    ]
    assert (use["label"]["ece"], use["policy"]["answer_bytes"]) == (None, 24)
    assert use["model"]["bits"] == row_bits(sanitize(Open(num_classes=3), logits)).mean()


def test_open_policy_and_noise_are_pointed_out() -> None:
    chooser = Chooser("open", num_classes=10, tiers={})
    assert policy_fields(chooser.choose({}))["hides_nothing"]
    assert not policy_fields(chooser.choose({"policy": "stingy"}))["hides_nothing"]
    (note,) = policy_fields(chooser.choose({"policy": "keyed_noise"}))["notes"]
    assert "other noise" in note
    (note,) = policy_fields(chooser.choose({"policy": "stingy", "n": "1"}))["notes"]
    assert "always the same" in note


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "options"),
    [
        ({"n": "3"}, {}),
        ({}, {"version": "2"}),
        ({"decimals": "1"}, {}),
        ({}, {"broken": True}),
    ],
    ids=str,
)
async def test_F3_setting_without_an_audit_has_no_gain(
    tmp_path: Path, query: dict[str, str], options: dict[str, Any]
) -> None:
    fingerprint = build_policy("stingy", num_classes=10).fingerprint
    audit = make_report(fingerprint=fingerprint, **options)
    async with opened(make_bundle(tmp_path / "bundle"), audit=audit) as page:
        found = (await page.view_of(IMAGE, **query))["audit"]["found"]
    assert "uplift" not in str(found)


@pytest.mark.anyio
async def test_F3_audited_setting_has_its_gain_and_bounds(tmp_path: Path) -> None:
    fingerprint = build_policy("stingy", num_classes=10).fingerprint
    audit = make_report(fingerprint=fingerprint)
    async with opened(make_bundle(tmp_path / "bundle"), audit=audit) as page:
        found = (await page.view(tier="partner"))["audit"]["found"]
    ((endpoint,), tier) = found["policy"], found["tier"]
    (leak,) = endpoint["leaks"]
    assert (leak["uplift"], leak["clear"], leak["attack"]) == (10.0, True, "two_labels")
    assert tier == []  # the audit was not made under this tier
