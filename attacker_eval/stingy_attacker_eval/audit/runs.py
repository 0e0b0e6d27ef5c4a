"""The choice of an audit's runs for this process; the n shards of n cover every run."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.results import NO_ENDPOINT, OWNER


@dataclass(frozen=True)
class Run:
    """One student to train.

    endpoint: "none" for the baseline.
    budget: images the attacker may use; None for all it owns.
    """

    endpoint: str
    attack: str
    student: str
    seed: int
    budget: int | None = None
    attacker: str = OWNER

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that patterns match. A run is chosen with all its budgets."""
        return self.attacker, self.endpoint, self.attack, self.student, str(self.seed)


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` equal parts, counted from 1."""

    number: int = 1
    count: int = 1


def parse_shard(text: str) -> Shard:
    """Parse a shard i/n: "2/4" is the second of four.

    Raises EvalError if the text is no shard.
    """
    found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise EvalError(f'expected a shard i/n with 1 <= i <= n, got "{text}"')
    return Shard(int(found[1]), int(found[2]))


def choose(
    runs: Sequence[Run], *, only: Iterable[str] = (), shard: Shard | None = None
) -> list[Run]:
    """Return the runs to do, in their order.

    Every shard also does the baselines of its attackers and students, because uplifts are counted
    from them. The same seed gives them the same numbers in every shard.

    only: patterns in which * is any text and ? one character. A pattern with slashes must match
        ENDPOINT/ATTACK/STUDENT/SEED as a whole, or the same after ATTACKER/. One without slashes
        must match any of the five. A run is chosen if a pattern matches it; without patterns all
        runs are.
    shard: the part of the runs to do; None for all.

    Raises EvalError, which names each pattern that matches no run.
    """
    shard = shard or Shard()
    patterns = {text: _pattern(text) for text in only}
    if faults := pattern_faults(runs, patterns):
        raise EvalError("; ".join(faults))
    matching = [
        run
        for run in runs
        if not patterns or any(_matches(found, text, run) for text, found in patterns.items())
    ]
    work = [run for run in matching if not _is_baseline(run)] or matching
    own = set(work[shard.number - 1 :: shard.count])
    students = {(run.attacker, run.student) for run in own}
    return [
        run
        for run in runs
        if run in own or (_is_baseline(run) and (run.attacker, run.student) in students)
    ]


def pattern_faults(runs: Sequence[Run], only: Iterable[str]) -> list[str]:
    """Return a fault for the patterns of `choose` that match no run."""
    unmatched = [
        text for text in only if not any(_matches(_pattern(text), text, run) for run in runs)
    ]
    return [f"expected runs that fit {', '.join(unmatched)}, got none"] if unmatched else []


def _is_baseline(run: Run) -> bool:
    return run.endpoint == NO_ENDPOINT


def _pattern(text: str) -> re.Pattern[str]:
    # Not fnmatch, because it would read the brackets in an attack's label as a set.
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."))


def _matches(pattern: re.Pattern[str], text: str, run: Run) -> bool:
    texts = ("/".join(run.fields[1:]), "/".join(run.fields)) if "/" in text else run.fields
    return any(pattern.fullmatch(each) for each in texts)
