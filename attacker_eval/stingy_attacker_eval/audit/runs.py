"""Which of an audit's runs this process does; the shards of n together do every run."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.results import NO_ENDPOINT


@dataclass(frozen=True)
class Run:
    """One student to train; the baseline's endpoint is "none", budget None is all images."""

    endpoint: str
    attack: str
    student: str
    seed: int
    budget: int | None = None

    @property
    def key(self) -> tuple[str, str, str, int, int | None]:
        return self.endpoint, self.attack, self.student, self.seed, self.budget

    @property
    def fields(self) -> tuple[str, ...]:
        """What patterns are held against: a run is chosen with all its budgets."""
        return self.endpoint, self.attack, self.student, str(self.seed)


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` equal parts, counted from 1."""

    number: int = 1
    count: int = 1


def parse_shard(text: str) -> Shard:
    """ "2/4" is the second of four. Raises EvalError."""
    found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise EvalError(f'expected a shard i/n with 1 <= i <= n, got "{text}"')
    return Shard(int(found[1]), int(found[2]))


def choose(
    runs: Sequence[Run], *, only: Iterable[str] = (), shard: Shard | None = None
) -> list[Run]:
    """The runs to do, in their order.

    only: patterns in which * stands for any text and ? for one character. One with slashes is
    for ENDPOINT/ATTACK/STUDENT/SEED as a whole, one without for any of the four; a run is chosen
    when some pattern fits it. Every shard also does the baselines of its students, for uplifts
    are counted from them: the same seed gives them the same numbers everywhere. Raises EvalError
    naming each pattern that fits no run.
    """
    shard = shard or Shard()
    patterns = {text: _pattern(text) for text in only}
    faults = [text for text in patterns if not any(_fits(patterns[text], text, r) for r in runs)]
    if faults:
        raise EvalError(f"expected runs that fit {', '.join(faults)}, got none")
    wanted = [
        run
        for run in runs
        if not patterns or any(_fits(found, text, run) for text, found in patterns.items())
    ]
    work = [run for run in wanted if not _is_baseline(run)] or wanted
    mine = set(work[shard.number - 1 :: shard.count])
    students = {run.student for run in mine}
    return [run for run in runs if run in mine or (_is_baseline(run) and run.student in students)]


def _is_baseline(run: Run) -> bool:
    return run.endpoint == NO_ENDPOINT


def _pattern(text: str) -> re.Pattern[str]:
    # Not fnmatch: the brackets in an attack's label are to be taken as they are.
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."))


def _fits(pattern: re.Pattern[str], text: str, run: Run) -> bool:
    parts = ("/".join(run.fields),) if "/" in text else run.fields
    return any(pattern.fullmatch(part) for part in parts)
