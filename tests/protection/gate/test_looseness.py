"""The order of policies: equal, looser, stricter or neither."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stingy_protection import Looseness, Policy, build_policy, compare_policies, parse_policy

SCORED = ("stingy", "stingy_smooth", "keyed_noise", "ranked_buckets", "rounded", "reverse_sigmoid")
WITH_N = ("stingy", "stingy_smooth", "keyed_noise", "ranked_buckets", "ranked_labels")
AT_LEAST = (Looseness.EQUAL, Looseness.LOOSER)
MIRROR = {
    Looseness.EQUAL: Looseness.EQUAL,
    Looseness.LOOSER: Looseness.STRICTER,
    Looseness.STRICTER: Looseness.LOOSER,
    Looseness.NEITHER: Looseness.NEITHER,
}


def build(text: str, num_classes: int = 10) -> Policy:
    name, options = parse_policy(text)
    return build_policy(name, num_classes=num_classes, **options)


@st.composite
def shipped(draw: st.DrawFn, num_classes: int = 10) -> Policy:
    """Draw a shipped policy with any options, ModelGuard-W with its own."""
    name = draw(st.sampled_from([*SCORED, "ranked_labels", "label", "open", "reversed"]))
    options: dict[str, object] = {}
    if name in WITH_N:
        options["n"] = draw(st.integers(1, num_classes))
    if name in SCORED:
        options["scores"] = draw(st.sampled_from(["logit", "log_prob", "prob", "rank", "none"]))
        options["decimals"] = draw(st.integers(0, 6))
    if name == "keyed_noise":
        options["sigma"] = draw(st.sampled_from([0.5, 1.0, 2.0]))
    return build_policy(
        name,
        num_classes=num_classes,
        **{option: str(value) for option, value in options.items()},
    )


@pytest.mark.parametrize(
    ("policy", "other", "expected"),
    [
        ("stingy:n=1,scores=prob", "ranked_labels:n=10", "stricter"),
        ("stingy:n=2,scores=prob", "ranked_labels:n=10", "neither"),
        ("stingy:n=1,scores=logit", "ranked_labels:n=10", "neither"),
        ("stingy:n=1", "label", "equal"),
        ("stingy:n=3,scores=none", "ranked_labels:n=3", "equal"),
        ("stingy:n=3", "ranked_labels:n=3", "looser"),
        ("stingy:n=3", "ranked_labels:n=4", "neither"),
        ("stingy:n=3,decimals=2", "stingy:n=3", "stricter"),
        ("stingy:n=2", "stingy:n=3,decimals=2", "neither"),
        ("stingy:n=3,scores=logit", "stingy:n=3", "looser"),
        ("stingy:n=3,scores=prob", "stingy:n=3", "stricter"),
        ("stingy_smooth:n=3", "stingy:n=3", "looser"),
        ("keyed_noise:n=3", "keyed_noise:n=3,sigma=2", "neither"),
        ("keyed_noise:n=3", "stingy:n=3", "stricter"),
        ("rounded", "rounded:decimals=1", "looser"),
        ("modelguard_w", "stingy:n=2", "neither"),
        ("open", "reversed", "equal"),
        ("label", "open", "stricter"),
    ],
)
def test_P7_order_of_two_policies_is(policy: str, other: str, expected: str) -> None:
    assert compare_policies(build(policy), build(other)) == expected
    assert compare_policies(build(other), build(policy)) is MIRROR[Looseness(expected)]


@pytest.mark.parametrize("num_classes", [10, 1000])
@pytest.mark.parametrize("scores", ["log_prob", "prob", "logit", "rank", "none"])
@pytest.mark.parametrize("name", ["stingy", "ranked_labels"])
def test_P7_one_more_class_is_looser(name: str, scores: str, num_classes: int) -> None:
    form = f",scores={scores}" if name == "stingy" else ""
    for n in (1, 4, num_classes // 4, num_classes // 2):
        more, fewer = (build(f"{name}:n={m}{form}", num_classes) for m in (n + 1, n))
        assert compare_policies(more, fewer) is Looseness.LOOSER


@pytest.mark.parametrize(
    "tier",
    ["n=2", "n=4,decimals=1", "n=4,scores=rank", "n=2,scores=none,decimals=0"],
)
def test_P7_tier_makes_a_policy_stricter(tier: str) -> None:
    assert compare_policies(build("stingy:n=4"), build(f"stingy:{tier}")) is Looseness.LOOSER


@given(policy=shipped())
def test_P7_policy_equals_itself(policy: Policy) -> None:
    assert compare_policies(policy, replace(policy)) is Looseness.EQUAL


@given(policy=shipped(), other=shipped())
def test_P7_order_is_antisymmetric(policy: Policy, other: Policy) -> None:
    assert compare_policies(other, policy) is MIRROR[compare_policies(policy, other)]


@given(data=st.data())
def test_P7_order_is_transitive(data: st.DataObject) -> None:
    first, second, third = (data.draw(shipped()) for _ in range(3))
    assume(compare_policies(first, second) in AT_LEAST)
    assume(compare_policies(second, third) in AT_LEAST)
    assert compare_policies(first, third) in AT_LEAST


def test_P7_policies_of_other_classes_are_neither() -> None:
    assert compare_policies(build("open", 10), build("label", 11)) is Looseness.NEITHER
