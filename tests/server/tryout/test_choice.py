"""The policies and tiers of the page: the bundle's own at first, and texts that settings take."""

import pytest

from stingy_protection import PolicyConfigError, build_policy, parse_policy
from stingy_server.settings import Tier
from stingy_server.tryout.choice import Chooser

TIERS = {"partner": Tier(classes=1)}


def chooser(own: str = "stingy") -> Chooser:
    return Chooser(own, num_classes=10, tiers=TIERS)


def test_without_a_query_the_bundles_own_policy_is_chosen() -> None:
    choice = chooser("stingy:ratio=0.3,decimals=2").choose({})
    assert (choice.policy.support, choice.policy.decimals, choice.tier_name) == (3, 2, "full")
    assert choice.text == "stingy:ratio=0.3,decimals=2"


def test_controls_at_their_first_values_leave_the_text_short() -> None:
    query = {"policy": "stingy", "n": "2", "decimals": "3", "scores": "log_prob", "tier": "full"}
    assert chooser().choose(query).text == "stingy"


@pytest.mark.parametrize(
    ("own", "query", "text"),
    [
        ("stingy", {"n": "3"}, "stingy:n=3"),
        ("stingy:ratio=0.3", {"n": "4"}, "stingy:n=4"),
        ("stingy", {"scores": "prob", "decimals": "1"}, "stingy:decimals=1,scores=prob"),
        ("stingy:n=4", {"policy": "label", "n": "9"}, "label"),
        ("stingy", {"policy": "ranked_labels", "n": "5"}, "ranked_labels:n=5"),
    ],
)
def test_text_of_a_choice_builds_the_same_policy(
    own: str, query: dict[str, str], text: str
) -> None:
    choice = chooser(own).choose(query)
    assert choice.text == text
    name, options = parse_policy(choice.text)
    assert build_policy(name, num_classes=10, **options) == choice.policy


@pytest.mark.parametrize(
    "query",
    [
        {"policy": "nothing"},
        {"tier": "gold"},
        {"n": "0"},
        {"n": "11"},
        {"n": "x"},
        {"decimals": "7"},
        {"scores": "dense"},
        {"policy": "ranked_labels", "scores": "prob"},
        {"policy": "stingy:n=3"},
    ],
    ids=str,
)
def test_faulty_choice_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(PolicyConfigError):
        chooser().choose(query)


def test_offers_begin_with_the_own_policy_and_can_all_be_chosen() -> None:
    offers = chooser("rounded").offers()
    assert offers[0].name == "rounded"
    assert {"stingy", "label", "open", "ranked_labels"} <= {offer.name for offer in offers}
    for offer in offers:
        for form in offer.forms:
            choice = chooser("rounded").choose({"policy": offer.name, "scores": form})
            assert choice.policy.scores == form


def test_policy_that_needs_a_file_is_not_offered() -> None:
    assert "class_prototype" not in {offer.name for offer in chooser().offers()}
