"""Building policies from names and ratios: exact numbers, and every fault is listed."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stingy_protection import (
    ClassPrototype,
    KeyedNoise,
    Label,
    ModelGuardW,
    Open,
    Policy,
    PolicyConfigError,
    Proposal,
    RankedBuckets,
    RankedLabels,
    Reversed,
    ReverseSigmoid,
    Rounded,
    ScoreForm,
    Stingy,
    StingySmooth,
    best_first,
    build_policy,
    parse_policy,
    policy_names,
    support_size,
    write_prototypes,
)
from stingy_protection.policies import registry


@dataclass(frozen=True, kw_only=True)
class Plugged(Policy):
    """A third-party policy with options of every type and one without a default."""

    name: ClassVar[str] = "plugged"
    strength: float
    loud: bool = False

    @property
    def support(self) -> int:
        return 1

    def propose(self, logits: Tensor) -> Proposal:
        values, indices = best_first(logits, 1)
        return Proposal(indices, values)


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Pretend that one entry point is installed."""

    def install(name: str, value: str) -> None:
        installed = EntryPoints([EntryPoint(name, value, registry.ENTRY_POINTS)])
        monkeypatch.setattr(registry, "entry_points", lambda **query: installed.select(**query))

    return install


@settings(max_examples=300)
@given(thousandths=st.integers(1, 1000), classes=st.integers(2, 1000))
def test_P4_a_ratio_becomes_n_in_exact_arithmetic(thousandths: int, classes: int) -> None:
    exact = max(1, thousandths * classes // 1000)
    for ratio in (thousandths / 1000, f"{thousandths}/1000", Fraction(thousandths, 1000)):
        assert support_size(classes, ratio=ratio) == exact
    assert 1 <= exact <= classes


@pytest.mark.parametrize(
    ("classes", "ratio", "n"),
    [(100, 0.29, 29), (100, 0.57, 57), (100, 0.58, 58), (10, 0.05, 1), (7, 1, 7), (10, "0.3", 3)],
)
def test_P4_known_ratios_give_known_n(classes: int, ratio: float | str, n: int) -> None:
    assert support_size(classes, ratio=ratio) == n


@pytest.mark.parametrize(("classes", "n"), [(10, 2), (100, 10), (200, 20), (1000, 100), (2, 1)])
def test_the_default_ratio_is_the_papers(classes: int, n: int) -> None:
    assert support_size(classes) == n


@pytest.mark.parametrize("ratio", [0, -0.1, 1.001, "x", "nan", "inf", float("nan"), "1/0", ""])
def test_a_ratio_outside_zero_to_one_is_a_fault(ratio: float | str) -> None:
    with pytest.raises(PolicyConfigError, match="ratio"):
        support_size(10, ratio=ratio)


@pytest.mark.parametrize("n", [0, 11, -1, True, 2.5])
def test_an_n_outside_one_to_k_is_a_fault(n: int) -> None:
    with pytest.raises(PolicyConfigError, match="expected n"):
        support_size(10, n=n)


def test_n_and_ratio_together_are_a_fault() -> None:
    with pytest.raises(PolicyConfigError, match="both"):
        support_size(10, n=2, ratio=0.2)


def test_fewer_than_two_classes_are_a_fault_of_the_support() -> None:
    with pytest.raises(PolicyConfigError, match="num_classes"):
        support_size(1)


def test_a_text_is_split_into_name_and_options() -> None:
    assert parse_policy("stingy") == ("stingy", {})
    assert parse_policy("stingy:n=3, scores=prob,decimals=2") == (
        "stingy",
        {"n": "3", "scores": "prob", "decimals": "2"},
    )


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", 1),
        (":n=3", 1),
        ("a:", 1),
        ("a:n", 1),
        ("a:n=", 1),
        ("a:=3", 1),
        ("a:n=1,n=2", 1),
        ("a:num_classes=3", 1),
        (":n,k=1,k=2", 3),
    ],
)
def test_every_fault_of_a_malformed_text_is_listed(text: str, faults: int) -> None:
    with pytest.raises(PolicyConfigError) as caught:
        parse_policy(text)
    assert len(caught.value.faults) == faults


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("keyed_noise:sigma=2", KeyedNoise(num_classes=10, n=2, sigma=2.0)),
        ("label", Label(num_classes=10)),
        ("modelguard_w:eps=0.5", ModelGuardW(num_classes=10, eps=0.5)),
        ("open", Open(num_classes=10)),
        ("ranked_buckets:n=4,buckets=2", RankedBuckets(num_classes=10, n=4, buckets=2)),
        ("ranked_labels:n=4", RankedLabels(num_classes=10, n=4)),
        ("reverse_sigmoid:beta=0.5", ReverseSigmoid(num_classes=10, beta=0.5)),
        ("reversed", Reversed(num_classes=10)),
        ("rounded:decimals=1", Rounded(num_classes=10, decimals=1)),
        ("stingy", Stingy(num_classes=10, n=2)),
        ("stingy:ratio=0.35", Stingy(num_classes=10, n=3)),
        ("stingy:n=3,scores=prob", Stingy(num_classes=10, n=3, scores=ScoreForm.PROB)),
        ("stingy_smooth:ratio=1/2", StingySmooth(num_classes=10, n=5)),
    ],
)
def test_every_shipped_policy_is_built_from_its_text(text: str, policy: Policy) -> None:
    name, options = parse_policy(text)
    assert build_policy(name, num_classes=10, **options) == policy


def test_canonical_lists_are_read_from_the_named_file(tmp_path: Path) -> None:
    lists = ((0, 2, 1), (1, 0, 2), (2, 1, 0))
    write_prototypes(tmp_path / "lists.json", lists)
    text = f"class_prototype:lists={tmp_path / 'lists.json'},n=2"
    name, options = parse_policy(text)
    built = build_policy(name, num_classes=3, **options)
    assert built == ClassPrototype(num_classes=3, lists=lists, n=2)


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"lists": 3}', '{"lists": [[]]}'])
def test_a_file_without_lists_is_a_fault(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "lists.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PolicyConfigError, match="expected lists"):
        build_policy("class_prototype", num_classes=3, lists=str(path))


def test_the_error_for_an_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(PolicyConfigError) as caught:
        build_policy("stingey", num_classes=10)
    assert all(name in str(caught.value) for name in policy_names())


def test_all_faults_of_the_options_are_listed_at_once() -> None:
    with pytest.raises(PolicyConfigError) as caught:
        build_policy("stingy", num_classes=10, n="99", decimals="9", scores="loud", size=1)
    faults = caught.value.faults
    assert len(faults) == 4
    for word in ("n to be", "decimals", "scores", "unknown option 'size'"):
        assert any(word in fault for fault in faults)


def test_an_option_that_is_not_a_number_is_a_fault() -> None:
    with pytest.raises(PolicyConfigError, match="expected n to be an integer, got 'two'"):
        build_policy("stingy", num_classes=10, n="two")


def test_a_ratio_is_refused_for_a_policy_without_n() -> None:
    with pytest.raises(PolicyConfigError, match="unknown option 'ratio' of open"):
        build_policy("open", num_classes=10, ratio=0.1)


def test_a_plug_in_policy_is_found_and_its_options_converted(
    plug: Callable[[str, str], None],
) -> None:
    plug("plugged", f"{__name__}:Plugged")
    assert "plugged" in policy_names()
    built = build_policy("plugged", num_classes=10, strength="0.5", loud="true")
    assert (built.options()["strength"], built.options()["loud"]) == (0.5, True)
    with pytest.raises(PolicyConfigError, match="strength") as caught:
        build_policy("plugged", num_classes=10, loud="very")
    assert len(caught.value.faults) == 2


def test_a_shipped_policy_wins_a_name_clash(plug: Callable[[str, str], None]) -> None:
    plug("open", f"{__name__}:Plugged")
    assert build_policy("open", num_classes=10) == Open(num_classes=10)


@pytest.mark.parametrize("value", ["nowhere:Nothing", f"{__name__}:plug", f"{__name__}:Plugged"])
def test_a_plug_in_without_a_policy_of_its_name_is_a_fault(
    plug: Callable[[str, str], None], value: str
) -> None:
    plug("other", value)
    with pytest.raises(PolicyConfigError, match="plug-in"):
        build_policy("other", num_classes=10)
