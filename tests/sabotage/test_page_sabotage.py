"""A broken part of the pages on loopback, on which the check of its group must fail."""

import pytest
import torch

from stingy_protection import SparseLogits, build_policy, sanitize
from stingy_server.queries.tiers import tighten_to_tier
from stingy_server.settings import Tier
from try_pages import assert_tier_shows_no_more

LOGITS = torch.arange(10.0)[None]


def next_classes(answer: SparseLogits, tier: Tier) -> SparseLogits:
    """Show as many classes as the tier permits, whether the policy lets them out or not."""
    wider = build_policy("stingy", num_classes=10, n=tier.classes or 1)
    return sanitize(wider, LOGITS)


def test_F_tier_that_is_wider_than_its_policy_is_caught() -> None:
    answer = sanitize(build_policy("stingy", num_classes=10, n=2), LOGITS)
    tier = Tier(classes=5)
    assert_tier_shows_no_more(tighten_to_tier, answer, tier)
    with pytest.raises(AssertionError):
        assert_tier_shows_no_more(next_classes, answer, tier)
