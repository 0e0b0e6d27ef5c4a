"""Measure walks along an image's boundaries: what they recover, and when the watch suspends them.

    python benchmarks/detection/boundary.py [--images 20]

The teacher is trained on the digits. The policy is `stingy`, the top 2 of 10 classes.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from walks import (
    Floats,
    Images,
    LocalEndpoint,
    boundary_walk,
    grid_walk,
    rank_correlation,
)
from watching import suspended_after

from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
from stingy_attacker_eval.lab.teachers import TeacherSettings, train_teachers
from stingy_attacker_eval.students import student_spec
from stingy_protection import build_policy, read_manifest, verified_weights

Walk = Callable[..., Floats]
GRID_IMAGES = 100
LOOKS = (1, 25, 400)  # questions between two looks of the watch
WALKS: dict[str, Walk] = {
    "blends, 1 a class": partial(boundary_walk, starts=1, steps=4),
    "blends, 3 a class": partial(boundary_walk, starts=3, steps=5),
    "blends, 24 a class": partial(boundary_walk, starts=24, steps=8),
    "boundary, 20 rounds": partial(boundary_walk, starts=8, steps=8, rounds=20),
    "boundary, 496 rounds": partial(boundary_walk, starts=24, steps=8, rounds=496),
}


def train(data: Dataset, out: Path) -> torch.nn.Module:
    """Train the teacher and load it from its bundle."""
    train_teachers(data, out=out, settings=TeacherSettings(nasty=False))
    network = student_spec(TeacherSettings().network).build(data.num_classes)
    folder = out / "normal"
    network.load_state_dict(verified_weights(folder, read_manifest(folder)))
    return network.eval()


def own_images(data: Dataset, label: int, count: int) -> Images:
    """Return the attacker's first images of a class."""
    images: Images = data.train_x[np.flatnonzero(data.train_y == label)[:count]]
    return images


def _format_walk(
    name: str, walk: Walk, network: torch.nn.Module, data: Dataset, images: int
) -> list[str]:
    policy = build_policy("stingy", num_classes=10)
    withheld, whole, suspended = [], [], {look: [] for look in LOOKS}
    endpoint = LocalEndpoint(network, policy)
    for number, image in enumerate(data.test_x[:images]):
        endpoint = LocalEndpoint(network, policy)
        found = walk(endpoint, image, partial(own_images, data))
        truth = endpoint.logits(image[None])[0].double().numpy()
        withheld.append(rank_correlation(found, truth, withheld=True))
        whole.append(rank_correlation(found, truth, withheld=False))
        if number < 5:
            queries = np.concatenate(endpoint.queries)
            for look in LOOKS:
                suspended[look].append(suspended_after(queries, each_look=look)[0])
    error = statistics.stdev(whole) / len(whole) ** 0.5
    return [
        name,
        f"{endpoint.count:,}",
        f"{statistics.mean(withheld):.2f}",
        f"{statistics.mean(whole):.2f} ± {error:.2f}",
        *(_format_counts(counts) for counts in suspended.values()),
    ]


def _format_counts(counts: list[int | None]) -> str:
    """Format the median question at which the walks were suspended, and how many were."""
    reached = [count for count in counts if count is not None]
    if not reached:
        return "never"
    return f"{statistics.median(reached):.0f} ({len(reached)} of {len(counts)})"


def _hidden_among(queries: Images, data: Dataset, each: int) -> tuple[int | None, int]:
    """Send each question after `each` questions of different images, until these run out."""
    others = np.concatenate([data.train_x, data.test_x])
    order = np.random.default_rng(0).permutation(len(others))
    count = min(len(queries), len(order) // each)
    parts = [
        part
        for place in range(count)
        for part in (others[order[place * each : (place + 1) * each]], queries[place][None])
    ]
    return suspended_after(np.concatenate(parts))[0], count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20, help="images attacked; default 20")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console, data = Console(width=150), load_dataset("digits")
    with tempfile.TemporaryDirectory() as folder:
        network = train(data, Path(folder))
    table = Table(
        "walk",
        "questions",
        "rank correlation: 8 withheld",
        "all 10",
        *(f"suspended, a look each {look}" for look in LOOKS),
    )
    for name, walk in WALKS.items():
        table.add_row(*_format_walk(name, walk, network, data, arguments.images))
    console.print(table)

    endpoint = LocalEndpoint(network, build_policy("stingy", num_classes=10))
    WALKS["blends, 3 a class"](endpoint, data.test_x[0], partial(own_images, data))
    for each in (5, 19, 30):
        after, count = _hidden_among(np.concatenate(endpoint.queries), data, each)
        console.print(f"{count} questions of a walk, each after {each} other digits: {after}")

    coarse = build_policy("stingy", num_classes=10, decimals=0)
    answered, estimated, endpoint = [], [], LocalEndpoint(network, coarse)
    for image in data.test_x[:GRID_IMAGES]:
        endpoint = LocalEndpoint(network, coarse)
        largest = endpoint.logits(image[None])[0].double().topk(2).values.log_softmax(dim=0)
        found = grid_walk(endpoint, image, partial(own_images, data), goals=7, steps=7)
        answered.append(abs(found[0] - float(largest[1])))
        estimated.append(abs(found[1] - float(largest[1])))
    console.print(
        f"second score at 0 decimals, {GRID_IMAGES} images: error {statistics.mean(answered):.2f}, "
        f"after {endpoint.count} questions {statistics.mean(estimated):.2f}"
    )


if __name__ == "__main__":
    main()
