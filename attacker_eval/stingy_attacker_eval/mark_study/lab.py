"""The lab of one seed: data, teacher, secret and the training of each student."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.datasets.datasets import Images, load_dataset
from stingy_attacker_eval.errors import StudyError
from stingy_attacker_eval.mark_study.marking import (
    Choices,
    MarkingOracle,
    choose,
    exchange,
    make_policy,
    rank,
)
from stingy_attacker_eval.mark_study.orders import (
    Float64,
    Int64,
    match_orders,
    secret_orders,
    weigh_pairs,
)
from stingy_attacker_eval.mark_study.rows import (
    EndpointRow,
    OrderNumbers,
    OrderRow,
    ThiefRow,
    letters_of,
)
from stingy_attacker_eval.mark_study.settings import Study
from stingy_attacker_eval.mark_study.thieves import THIEVES, Loot, train_on_labels
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import percent_equal, predict, to_device

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Parts:
    """The images of a study: uint8 `[n, 3, S, S]`, and their classes, int64 `[n]`."""

    teacher: tuple[Tensor, Tensor]
    owned: tuple[Tensor, Tensor]
    other: tuple[Tensor, Tensor]
    clean: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    labels: tuple[str, ...]


def load_parts(study: Study) -> Parts:
    """Load the data set, average its images down, and cut it into parts without overlap.

    Raises StudyError if the data set has too few images, or another size.
    """
    data = load_dataset(study.dataset)
    sizes = study.teacher.images or 0, *[study.training.images or 0] * 2, study.clean
    if sum(sizes) > len(data.train_x):
        raise StudyError(f"expected {sum(sizes)} training images, got {len(data.train_x)}")
    data = data.subset(sum(sizes))
    ends = np.cumsum(sizes)
    parts = [
        _tensors(shrink(images, study.side), labels)
        for images, labels in zip(
            np.split(data.train_x, ends[:-1]), np.split(data.train_y, ends[:-1]), strict=True
        )
    ]
    test = _tensors(shrink(data.test_x, study.side), data.test_y)
    return Parts(parts[0], parts[1], parts[2], parts[3], test, data.class_names)


def shrink(images: Images, side: int) -> Images:
    """Average images `[n, H, W, 3]` down to `side` pixels; H and W are equal multiples of it."""
    count, height, width, channels = images.shape
    if height != width or height % side:
        raise StudyError(f"expected a multiple of {side} pixels a side, got {height}x{width}")
    step = height // side
    cells = images.reshape(count, side, step, side, step, channels).mean(axis=(2, 4))
    shrunk: Images = np.rint(cells).astype(np.uint8)
    return shrunk


class Lab:
    """One seed of a study. The teacher is trained once and kept in the seed's folder."""

    def __init__(self, study: Study, parts: Parts, *, seed: int, folder: Path) -> None:
        self._study = study
        self.parts = parts
        self.seed = seed
        self._secret = hashlib.sha256(f"study secret {seed}".encode()).digest()
        self._policy = make_policy(study.policy, len(parts.labels))
        self.teacher = self._load_teacher(folder / "teacher.pt")
        self._test_classes = predict(self.teacher, parts.test[0]).numpy()

    def oracle(self, share: float, *, ranks: Int64 | None = None) -> MarkingOracle:
        """Return the endpoint with a fresh key, whose marks have this share; 0 for none.

        ranks: see `MarkingOracle`.
        """
        return MarkingOracle(
            self.teacher,
            self._policy,
            labels=self.parts.labels,
            side=self._study.side,
            secret=self._secret,
            share=share,
            runners_up=self._study.runners_up,
            ranks=ranks,
        )

    def build(self) -> nn.Module:
        """Build a new student, with weights of the seed."""
        torch.manual_seed(self.seed)
        return student_spec(self._study.student).build(len(self.parts.labels))

    def rob(self, name: str, share: float) -> ThiefRow:
        """Train a thief's student on marked answers and question it about them."""
        started = time.perf_counter()
        oracle = self.oracle(share)
        stolen = THIEVES[name](self._loot(oracle))
        items = oracle.items()
        logits = compute_logits(stolen.student, items.images)
        best = preferred_places(logits, items.runners_up)
        classes = logits.argmax(dim=1).numpy()
        accuracy, agreement = self.measure(stolen.student)
        return ThiefRow(
            seed=self.seed,
            student=name,
            share=share,
            accuracy=accuracy,
            agreement=agreement,
            queries=stolen.queries,
            answers=letters_of(items, classes, True),
            preferred="".join(str(int(hit)) for hit in (best == items.places)[items.marked]),
            placebo=letters_of(items, classes, False),
            runners_up=items.runners_up.shape[1],
            seconds=round(time.perf_counter() - started, 1),
            finite=stolen.finite,
        )

    def rob_lists(self, name: str, references: Float64) -> OrderRow:
        """Train a thief's student on lists in a secret order, and judge it by that order.

        references: mean log-probabilities of innocents on the test images, float64 `[n, K]`.
        """
        started = time.perf_counter()
        oracle = self.oracle(0.0, ranks=secret_orders(self._secret, len(self.parts.labels)))
        stolen = THIEVES[name](self._loot(oracle))
        accuracy, _ = self.measure(stolen.student)
        found = self.log_probabilities(stolen.student)
        return self.judge_order(
            name,
            found,
            references,
            data="thief",
            accuracy=accuracy,
            seconds=time.perf_counter() - started,
            finite=stolen.finite,
        )

    def judge_order(
        self,
        name: str,
        found: Float64,
        references: Float64,
        *,
        data: Literal["thief", "innocent"],
        accuracy: float,
        seconds: float,
        finite: bool,
    ) -> OrderRow:
        """Judge log-probabilities of the test images, `[n, K]`, by the seed's secret order."""
        logits = compute_logits(self.teacher, self.parts.test[0])
        lists = rank(logits, self._policy.support - 1)
        teacher = functional.log_softmax(logits, dim=1).double().numpy()
        tests = [
            match_orders(
                weigh_pairs(lists, found, reference),
                self._secret,
                num_classes=len(self.parts.labels),
                others=self._study.secrets,
            )
            for reference in (teacher, references)
        ]
        return OrderRow(
            seed=self.seed,
            student=name,
            data=data,
            accuracy=accuracy,
            teacher=OrderNumbers(z=tests[0].z, p_value=tests[0].p_value),
            references=OrderNumbers(z=tests[1].z, p_value=tests[1].p_value),
            seconds=round(seconds, 1),
            finite=finite,
        )

    def log_probabilities(self, student: nn.Module) -> Float64:
        """Return a student's log-probabilities of the test images, float64 `[n, K]`."""
        logits = compute_logits(student, self.parts.test[0])
        found: Float64 = functional.log_softmax(logits, dim=1).double().numpy()
        return found

    def _loot(self, oracle: MarkingOracle) -> Loot:
        return Loot(
            *self.parts.owned,
            *self.parts.clean,
            build=self.build,
            oracle=oracle,
            honest=self.oracle(0.0),
            settings=self._study.training.training,
            seed=self.seed,
        )

    def train_innocent(self, number: int, data: str) -> tuple[nn.Module, bool]:
        """Train a student that never reads a mark, with weights and order of its own."""
        torch.manual_seed(1000 + number)
        student = student_spec(self._study.student).build(len(self.parts.labels))
        images, labels = self.parts.other if data == "other" else self.parts.owned
        if data == "honest":
            labels = predict(self.teacher, images)
        return train_on_labels(
            student,
            images,
            labels,
            settings=self._study.training.training,
            seed=1000 + number,
        )

    def measure(self, student: nn.Module) -> tuple[float, float]:
        """Return a student's accuracy and its agreement with the teacher, in percent."""
        classes = predict(student, self.parts.test[0]).numpy()
        labels = self.parts.test[1].numpy()
        return percent_equal(classes, labels), percent_equal(classes, self._test_classes)

    def owned_runners_up(self) -> Int64:
        """Return the teacher's runners-up of the thief's images, int64 `[n, m]`."""
        logits = compute_logits(self.teacher, self.parts.owned[0])
        return rank(logits, self._study.runners_up)[:, 1:]

    def owned_pixels(self) -> Images:
        """Return the thief's images, uint8 `[n, S, S, 3]`."""
        return _pixels(self.parts.owned[0])

    def measure_endpoint(self) -> EndpointRow:
        """Measure what the marks cost a marked key, and how many inputs they mark."""
        started = time.perf_counter()
        study, labels = self._study, self.parts.test[1].numpy()
        logits = compute_logits(self.teacher, self.parts.test[0])
        best = rank(logits, study.runners_up)
        accuracies, marked, codes = {}, {}, 0
        for share in study.shares:
            choices = self._choose(_pixels(self.parts.test[0]), share)
            classes = exchange(logits, best, choices).argmax(dim=1).numpy()
            accuracies[f"{share:g}"] = percent_equal(classes, labels)
            owned = self._choose(self.owned_pixels(), share)
            marked[f"{share:g}"] = float(owned.marked.mean())
            codes = len(set(owned.codes))
        return EndpointRow(
            seed=self.seed,
            accuracy=percent_equal(self._test_classes, labels),
            marked_accuracy=accuracies,
            marked_share=marked,
            distinct=codes,
            seconds=round(time.perf_counter() - started, 1),
        )

    def _choose(self, images: Images, share: float) -> Choices:
        return choose(
            self._secret,
            images,
            share=share,
            runners_up=self._study.runners_up,
            num_classes=len(self.parts.labels),
        )

    def _load_teacher(self, path: Path) -> nn.Module:
        settings = self._study.teacher
        torch.manual_seed(self.seed)
        network = student_spec(settings.network).build(len(self.parts.labels))
        if path.exists():
            network.load_state_dict(torch.load(path, weights_only=True))
            return network
        images, labels = self.parts.teacher
        _, finite = train_on_labels(
            network, images, labels, settings=settings.training, seed=self.seed
        )
        if not finite:
            raise StudyError("expected a finite loss of the teacher, got another: lower lr")
        temporary = path.with_suffix(".tmp")
        torch.save(network.state_dict(), temporary)
        temporary.replace(path)
        return network


def preferred_places(logits: Tensor, runners_up: Int64) -> Int64:
    """Return the place of the runner-up that a student scores highest, int64 `[n]`."""
    scores = functional.log_softmax(logits, dim=1).gather(1, torch.from_numpy(runners_up))
    places: Int64 = scores.argmax(dim=1).numpy()
    return places


def _tensors(images: Images, labels: Int64) -> tuple[Tensor, Tensor]:
    return to_device(images, _CPU), torch.from_numpy(labels)


def _pixels(images: Tensor) -> Images:
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
