"""Compare students that differ by their seed alone, as an audit compares two attacks.

    python benchmarks/audit/null_run.py [--students 40] [--out FILE]

The command trains students on the labels of one teacher of the digits, each with its own seed. It
then draws two disjoint groups of five, 1,000 times, and applies both tests of an audit at 5 %. All
calls of a difference are false. With the first group shifted up by the margin, so are all calls
that the difference is below the margin. Takes about a minute on one core.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from stingy_attacker_eval.attacks import AttackerData
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
from stingy_attacker_eval.environment import source_commit
from stingy_attacker_eval.report.significance import LEVEL, Difference, difference
from stingy_attacker_eval.results import Row, summarise
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import (
    TrainSettings,
    percent_equal,
    predict,
    to_device,
    train,
)

GROUP = 5
COMPARISONS = 1000
MARGIN = 1.0
TEACHER = TrainSettings(epochs=12, batch=64, lr=0.1, augment=1)
STUDENT = TrainSettings(epochs=5, batch=64, lr=0.05, augment=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare equal students.")
    parser.add_argument("--students", type=int, default=40)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    data = load_dataset("digits")
    accuracies = train_students(data, options.students)
    found = {
        "command": f"python benchmarks/audit/null_run.py --students {options.students}",
        "students": options.students,
        "accuracy_mean": round(float(accuracies.mean()), 3),
        "accuracy_spread": round(float(accuracies.std(ddof=1)), 3),
        "comparisons": COMPARISONS,
        "called_more": count_more(accuracies, len(data.test_y)),
        "called_less_than_margin_at_the_margin": count_no_more(accuracies, len(data.test_y)),
        "margin": MARGIN,
        "level": LEVEL,
        "accuracies": [round(float(value), 3) for value in accuracies],
        "torch": str(torch.__version__),
        "platform": platform.platform(terse=True),
        "commit": source_commit(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    text = json.dumps(found, indent=2) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text, end="")  # noqa: T201


def train_students(data: Dataset, count: int) -> NDArray[np.float64]:
    """Return the accuracies of students that were trained on one teacher's labels, `[count]`."""
    device = torch.device("cpu")
    images, test_images = to_device(data.train_x, device), to_device(data.test_x, device)
    labels = torch.from_numpy(data.train_y)
    torch.manual_seed(0)
    teacher = student_spec("cnn_large").build(data.num_classes)
    train(
        teacher,
        images,
        lambda logits, rows, _: functional.cross_entropy(logits, labels[rows]),
        settings=TEACHER,
        seed=0,
    )
    purchased = AttackerData(images, labels=labels, top1=predict(teacher, images))
    accuracies = []
    for seed in range(count):
        torch.manual_seed(seed)
        student = student_spec("cnn_tiny").build(data.num_classes)
        LabelOnly().run(student, purchased, settings=STUDENT, seed=seed)
        accuracies.append(percent_equal(predict(student, test_images).numpy(), data.test_y))
    return np.array(accuracies)


def count_more(accuracies: NDArray[np.float64], test_images: int) -> int:
    """Count the comparisons of equal groups in which the first is called better."""
    found = compare_groups(accuracies, 0.0, test_images)
    return sum(each.p_above() <= LEVEL for each in found)


def count_no_more(accuracies: NDArray[np.float64], test_images: int) -> int:
    """Count the comparisons in which a gap of the margin is called smaller."""
    found = compare_groups(accuracies, MARGIN, test_images)
    return sum(each.p_below(MARGIN) <= LEVEL for each in found)


def compare_groups(
    accuracies: NDArray[np.float64], gap: float, test_images: int
) -> list[Difference]:
    """Return the differences of random disjoint groups, the first of them shifted by the gap."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(COMPARISONS):
        drawn = random.permutation(accuracies)
        rows = _rows("first", drawn[:GROUP] + gap) + _rows("second", drawn[GROUP : 2 * GROUP])
        first, second = summarise(rows)
        found.append(difference(first, second, rows, test_images=test_images))
    return found


def _rows(attack: str, accuracies: NDArray[np.float64]) -> list[Row]:
    return [
        Row(
            endpoint="digits",
            defence="label",
            attack=attack,
            student="cnn_tiny",
            seed=seed,
            queries=0,
            accuracy=float(accuracy),
            agreement=None,
            teacher_accuracy=None,
            uplift=0.0,
            finite=True,
            seconds=0.0,
        )
        for seed, accuracy in enumerate(accuracies)
    ]


if __name__ == "__main__":
    main()
