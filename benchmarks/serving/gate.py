"""Time the gate beside `torch.topk`, which no gate can do without.

    python benchmarks/serving/gate.py [--device cuda]

Both are timed in turn on the same logits, [256, 1000] and [1, 1000]. The gate's time includes the
copy of its answer to the CPU.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from results import circumstances

from stingy_protection import build_policy, sanitize

ROWS, CLASSES = (256, 1), 1000
POLICIES = ("stingy", "label")


def _time(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(
    policy_name: str, rows: int, device: torch.device, *, repeats: int
) -> dict[str, object]:
    """Return median and least microseconds of both, and the ratio of the medians."""
    policy = build_policy(policy_name, num_classes=CLASSES)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, CLASSES, generator=generator).to(device)
    calls: dict[str, Callable[[], object]] = {
        "topk": lambda: torch.topk(logits, policy.support),
        "gate": lambda: sanitize(policy, logits),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 10):
        for name, call in calls.items():
            elapsed = _time(call, device)
            if repeat >= 10:  # the first ten are warm-up
                times[name].append(elapsed * 1e6)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "policy": policy.describe(),
        "rows": rows,
        "median_us": medians,
        "least_us": {name: min(values) for name, values in times.items()},
        "ratio": medians["gate"] / medians["topk"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the gate beside torch.topk.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    found = [
        compare(name, rows, device, repeats=args.repeats) for rows in ROWS for name in POLICIES
    ]
    print(json.dumps({**circumstances(), "device": args.device, "gate": found}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
