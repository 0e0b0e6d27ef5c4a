"""Settings of attacks: those that do not fit are refused, all at once."""

import re

import pytest

from stingy_attacker_eval.attacks import attack_types, build_attacks
from stingy_attacker_eval.errors import AttackError

NAMED = {"collusion": {"partner": "open"}, "adaptive_knockoff": {"pool": "cifar10"}}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("magic", {}, "semi_supervised, skeptical, soft_label, subset_kl, sweep, tail_fill"),
        ("collusion", {}, "partner"),
        ("collusion", {"partner": 3}, "expected text for partner, got 3"),
        ("knockoff", {"queries": 1}, "a finite queries of 2 or more"),
        ("knockoff", {"queries": 2.5}, "expected an integer for queries, got 2.5"),
        ("tail_fill", {"fill": "magic"}, 'constant, class_mean, got "magic"'),
        ("active", {"strategy": "magic"}, 'entropy, k_center, random, got "magic"'),
        ("active", {"queries": 5, "rounds": 3}, "at most 2 rounds"),
        ("semi_supervised", {"threshold": 1.5}, "threshold in 0..1"),
        ("augmentation_union", {"views": 0}, "a finite views of 1 or more"),
        ("augmentation_union", {"views": 1, "mixtures": False}, "got neither"),
        ("label_votes", {"views": 1}, "a finite views of 2 or more"),
        ("consistent", {"attack": "no_api", "tau": 4}, "tau"),
        ("inversion", {"steps": 0}, "a finite steps above 0"),
        ("boundary_walk", {"rounds": -1}, "a finite rounds of 0 or more"),
        ("scm", {"omega": 0}, "a finite omega above 0"),
        ("htc", {"weight": 2}, "weight in 0..1"),
        ("jbda", {"reservoir": 0}, "a finite reservoir above 0"),
        ("adaptive_knockoff", {"pool": "synthetic"}, "a data set with classes"),
        ("adaptive_knockoff", {}, "pool"),
        ("data_free_soft", {"queries": 100}, "at least 1792 queries"),
        ("data_free_hard", {"queries": 10}, "at least 256 queries"),
        ("skeptical", {"weight": 2.0}, "weight in 0..1"),
        ("paper_kd", {"tua": 4}, "tua"),
        ("paper_kd", {"tau": 0}, "a finite tau above 0"),
        ("paper_kd", {"tau": "4"}, "a number for tau, got '4'"),
        ("paper_kd", {"alpha": 1.1}, "alpha in 0..1"),
        ("sweep", {"tau": 4}, "a list of numbers for tau"),
        ("sweep", {"tau": []}, "a list of numbers for tau"),
        ("sweep", {"beta": [1]}, "beta"),
    ],
)
def test_unfit_names_and_settings_are_refused(
    name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(AttackError, match=re.escape(message)):
        build_attacks(name, settings)


@pytest.mark.parametrize(
    ("name", "settings", "parts"),
    [
        ("paper_kd", {"tua": 4, "alpha": 2}, ["out of tau, alpha, got tua", "alpha in 0..1"]),
        ("paper_kd", {"tau": 10**400, "alpha": -1}, ["got a huge one", "alpha in 0..1"]),
        ("tail_fill", {"tau": 0, "delta": -1, "fill": "x"}, ["tau", "delta", "constant"]),
        ("skeptical", {"tau": "x", "weight": 3, "delay": -1}, ["tau", "weight", "delay"]),
        ("scm", {"tau": 0, "alpha": 2, "models": 0}, ["tau", "alpha", "models"]),
        ("data_free_soft", {"step": 0, "batch": 1, "queries": 2}, ["step", "batch", "least 7"]),
        ("consistent", {"views": 0, "attack": "paper_kd", "tau": 0}, ["views", "tau"]),
        ("consistent", {"n": True, "tau": "x"}, ["integer for n", "number for tau"]),
        ("sweep", {"tau": [0, 1], "alpha": "x", "n": 1}, ["got n", "alpha", "tau above 0"]),
        ("collusion", {"n": 1}, ["got n", "the setting partner, got none"]),
        ("no_api", {"tau": 1}, ["expected no settings, got tau"]),
    ],
)
def test_E8_all_faults_of_settings_are_named_at_once(
    name: str, settings: dict[str, object], parts: list[str]
) -> None:
    with pytest.raises(AttackError) as caught:
        build_attacks(name, settings)
    for part in parts:
        assert part in str(caught.value), part


@pytest.mark.parametrize("weight", ["one_hot", "balance", "activation"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_weights_of_dafl_are_finite_and_not_negative(weight: str, value: float) -> None:
    with pytest.raises(AttackError, match=f"expected a finite {weight} of 0 or more"):
        build_attacks("dafl", {weight: value})


@pytest.mark.parametrize("name", sorted(attack_types()))
def test_defaults_have_no_fault_and_unknown_settings_have_one(name: str) -> None:
    named = NAMED.get(name, {})
    assert build_attacks(name, named)
    with pytest.raises(AttackError, match="got colour: correct its name or remove it"):
        build_attacks(name, {**named, "colour": 1})
