"""Can two calls be told apart by the time they take? Asked so that a busy machine says no."""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

from torch import Tensor

BLOCK = 50
SIGMAS = 5.0


def interleaved(*calls: Callable[[], object], rounds: int) -> list[list[float]]:
    """For each call its times in seconds; each round runs all of them, in an order of its own."""
    seconds: list[list[float]] = [[] for _ in calls]
    order = list(range(len(calls)))
    shuffle = random.Random(0).shuffle
    for call in calls:
        call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffle(order)
            for index in order:
                started = time.perf_counter()
                calls[index]()
                seconds[index].append(time.perf_counter() - started)
    finally:
        gc.enable()
    return seconds


def gap(left: list[float], right: list[float]) -> tuple[float, float]:
    """How much longer `left` takes, in seconds, and the standard error of that.

    From the medians of blocks of rounds, so that a pause of the machine touches one block alone.
    """
    blocks = [slice(start, start + BLOCK) for start in range(0, len(left), BLOCK)]
    gaps = [statistics.median(left[block]) - statistics.median(right[block]) for block in blocks]
    return statistics.mean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))


def tell_apart(left: list[float], right: list[float], *, share: float) -> bool:
    """Whether the two differ by more than `share` of their median, and by no chance."""
    found, error = gap(left, right)
    floor = share * statistics.median(left + right)
    return abs(found) > floor and abs(found) > SIGMAS * error


def slower_by(limit: float, left: list[float], right: list[float]) -> bool:
    """Return true if one of the two takes more than `limit` seconds longer, and by no chance."""
    found, error = gap(left, right)
    return abs(found) > limit + SIGMAS * error


def shows_in_a_sort(gate: Callable[[Tensor], object], row: Tensor, *others: Tensor) -> bool:
    """Return true if the gate breaks L8.

    It does if its time for one of the others differs from its time for the row by more than it
    takes to sort the row once.
    """
    calls = [partial(gate, each) for each in (row, *others)]
    *gated, sort = interleaved(*calls, partial(row.sort, descending=True), rounds=1000)
    limit = statistics.median(sort)
    return any(slower_by(limit, gated[0], times) for times in gated[1:])
