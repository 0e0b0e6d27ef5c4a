"""Shards together do every run; patterns mean what they say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stingy_attacker_eval.audit.runs import Run, Shard, choose, parse_shard
from stingy_attacker_eval.errors import EvalError

BASELINE = [Run("none", "no_api", student, seed) for student in ("a", "b") for seed in (0, 1)]
ATTACKED = [
    Run(endpoint, attack, student, seed)
    for endpoint in ("open", "stingy")
    for attack in ("paper_kd", "sweep[tau=1,alpha=0.5]", "sweep[tau=4,alpha=0.5]")
    for student in ("a", "b")
    for seed in (0, 1)
]
RUNS = BASELINE + ATTACKED


def test_without_a_choice_every_run_is_done() -> None:
    assert choose(RUNS) == RUNS


@given(count=st.integers(1, 40))
def test_shards_cover_every_run_and_repeat_only_baselines(count: int) -> None:
    shards = [choose(RUNS, shard=Shard(number + 1, count)) for number in range(count)]
    assert {run for shard in shards for run in shard} == set(RUNS)
    done = [run for shard in shards for run in shard if run in ATTACKED]
    assert sorted(done, key=str) == sorted(ATTACKED, key=str)
    sizes = [len([run for run in shard if run in ATTACKED]) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@given(number=st.integers(1, 7))
def test_a_shard_has_the_baselines_of_its_students(number: int) -> None:
    mine = choose(RUNS, shard=Shard(number, 7))
    students = {run.student for run in mine}
    assert set(mine) >= {run for run in BASELINE if run.student in students}


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("stingy", 12),
        ("paper_kd", 8),
        ("sweep*", 16),
        ("sweep[tau=1,alpha=0.5]", 8),
        ("open/*/a/1", 3),
        ("*/paper_kd/?/0", 4),
    ],
)
def test_a_pattern_chooses_by_one_field_or_by_all(pattern: str, count: int) -> None:
    assert len([run for run in choose(RUNS, only=[pattern]) if run in ATTACKED]) == count


def test_a_run_is_chosen_when_some_pattern_fits_and_once() -> None:
    found = choose(RUNS, only=["open/paper_kd/a/0", "open/paper_kd/*"])
    assert found == [run for run in RUNS if run in found]
    assert [run for run in found if run in ATTACKED] == [
        run for run in ATTACKED if (run.endpoint, run.attack) == ("open", "paper_kd")
    ]


def test_baseline_can_be_chosen_without_others() -> None:
    assert choose(RUNS, only=["no_api"]) == BASELINE


def test_patterns_that_fit_nothing_are_named() -> None:
    with pytest.raises(EvalError, match=r"sweep\[tau=2\*, nobody, got none"):
        choose(RUNS, only=["open", "sweep[tau=2*", "nobody"])


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_a_shard_is_the_ith_of_n(text: str) -> None:
    assert parse_shard("2/4") == Shard(2, 4)
    with pytest.raises(EvalError, match="shard i/n"):
        parse_shard(text)
