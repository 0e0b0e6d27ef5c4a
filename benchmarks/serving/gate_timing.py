"""Measure how far withheld logits move the time of the gate, beside one sort of the row.

    python benchmarks/serving/gate_timing.py [--n 5 100] [--rounds 2000]

Each row [1, 1000] lets out the same logits and withholds others: two random rows, the same row
again (what chance alone makes), and the row in falling and in rising order. All are timed in
turn, in a new order each round. Row L8 of THREAT_MODEL.md bounds the difference by one sort.
"""

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from results import circumstances
from torch import Tensor

from stingy_protection import build_policy, sanitize

CLASSES = 1000
POLICIES = ("stingy", "ranked_labels")
BLOCK = 50


def withholding(variant: int, n: int) -> Tensor:
    """Make logits [1, CLASSES]: the n largest are the same in all variants, the others differ."""
    places = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(0))
    withheld = torch.rand(CLASSES - n, generator=torch.Generator().manual_seed(variant)) * 3
    return torch.cat([torch.arange(4.0 + n, 4.0, -1), withheld])[places][None]


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each call in each round, in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for number in range(rounds + BLOCK):
        random.shuffle(order)
        for name in order:
            started = time.perf_counter()
            calls[name]()
            elapsed = time.perf_counter() - started
            if number >= BLOCK:  # the first are warm-up
                times[name].append(elapsed * 1e6)
    return times


def gap(left: list[float], right: list[float]) -> tuple[float, float]:
    """Compare the medians of blocks of rounds: their mean difference and its standard error."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(left), BLOCK)]
    gaps = [statistics.median(left[block]) - statistics.median(right[block]) for block in blocks]
    return statistics.mean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))


def compare(policy_name: str, n: int, rounds: int) -> dict[str, object]:
    """Time the gate and one sort, and compare the gate's time for each row with the first."""
    policy = build_policy(policy_name, num_classes=CLASSES, n=n)
    row = withholding(1, n)
    rows = {
        "first": row,
        "second": withholding(2, n),
        "third": withholding(3, n),
        "first again": row.clone(),
        "falling": row.sort(descending=True).values,
        "rising": row.sort().values,
    }
    calls: dict[str, Callable[[], object]] = {
        name: partial(sanitize, policy, logits) for name, logits in rows.items()
    }
    times = timed({**calls, "sort": partial(row.sort, descending=True)}, rounds)
    gaps = {name: gap(times[name], times["first"]) for name in rows if name != "first"}
    sort = statistics.median(times["sort"])
    return {
        "policy": policy.describe(),
        "gate_us": statistics.median(times["first"]),
        "sort_us": sort,
        "differs_us": {name: found for name, (found, _) in gaps.items()},
        "standard_error_us": {name: error for name, (_, error) in gaps.items()},
        "largest_share_of_a_sort": max(abs(found) for found, _ in gaps.values()) / sort,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the gate on rows that withhold others.")
    parser.add_argument("--n", type=int, nargs="+", default=[5, 100])
    parser.add_argument("--rounds", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = [compare(name, n, arguments.rounds) for n in arguments.n for name in POLICIES]
    print(json.dumps({**circumstances(), "timing": found}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
