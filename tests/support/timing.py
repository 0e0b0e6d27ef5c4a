"""Tests whether the times of two calls differ. A busy machine makes them say no."""

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
    """Measure the seconds of calls. Each round runs all of them, in random order.

    Returns:
        For each call its times, one per round.
    """
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
    """Estimate in seconds how much longer `left` takes, with the standard error.

    Uses the medians of blocks of rounds, because a pause of the machine then affects one block.
    """
    blocks = [slice(start, start + BLOCK) for start in range(0, len(left), BLOCK)]
    gaps = [statistics.median(left[block]) - statistics.median(right[block]) for block in blocks]
    return statistics.mean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))


def differ_by(left: list[float], right: list[float], *, share: float) -> bool:
    """Return true if two calls differ by more than `share` of their median, and not by chance."""
    difference, error = gap(left, right)
    floor = share * statistics.median(left + right)
    return abs(difference) > floor and abs(difference) > SIGMAS * error


def slower_by(limit: float, left: list[float], right: list[float]) -> bool:
    """Return true if one call takes more than `limit` seconds longer, and not by chance."""
    difference, error = gap(left, right)
    return abs(difference) > limit + SIGMAS * error


def shows_in_a_sort(gate: Callable[[Tensor], object], row: Tensor, *others: Tensor) -> bool:
    """Return true if the gate breaks L8.

    It does if its times for the row and for one of the others differ by more than one sort of the
    row takes.
    """
    calls = [partial(gate, each) for each in (row, *others)]
    *gated, sort = interleaved(*calls, partial(row.sort, descending=True), rounds=1000)
    limit = statistics.median(sort)
    return any(slower_by(limit, gated[0], times) for times in gated[1:])
