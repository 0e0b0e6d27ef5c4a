"""An endpoint of ours without a server, and a data set that two epochs are enough for."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.protocol_file import parse_protocol
from stingy_attacker_eval.audit.runner import run_audit
from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.oracle.oracle import Answers, Oracle
from stingy_attacker_eval.report_schema import Report
from stingy_clients import ModelInfo, TransportError

CLASSES = 3


@dataclass
class FakeOracle:
    """Knows the class of a striped image (see `striped`) and says N classes with scores.

    `requests` are the sizes of the requests; after `fails_after` of them the endpoint is gone.
    """

    model: str = "pets"
    fingerprint: str = "a" * 12
    labels: tuple[str, ...] = ("0", "1", "2")
    form: str = "log_prob"
    support: int = 2
    max_batch: int = 256
    max_bytes: int | None = None
    fails_after: int | None = None
    failure: BaseException = field(default_factory=lambda: TransportError("connection refused"))
    requests: list[int] = field(default_factory=list)

    def describe(self) -> ModelInfo:
        return ModelInfo(
            name=self.model,
            version="1",
            num_classes=CLASSES,
            labels=self.labels,
            policy="stingy",
            support=self.support,
            scores=self.form,
            decimals=3,
            fingerprint=self.fingerprint,
            image_size=(8, 8),
            max_batch=self.max_batch,
            max_bytes=self.max_bytes,
        )

    def query(self, images: Images) -> Answers:
        if self.fails_after is not None and len(self.requests) >= self.fails_after:
            raise self.failure
        self.requests.append(len(images))
        brightest = images.astype(np.float64).mean(axis=(1, 2)).argmax(axis=1)
        order = (brightest[:, None] + np.arange(self.support)) % CLASSES
        scores = np.log([0.9, 0.08, 0.02][: self.support]).astype(np.float32)
        rows = None if self.form == "none" else np.tile(scores, (len(images), 1))
        return Answers(order.astype(np.int64), rows, CLASSES, self.form)

    def charged(self) -> int:
        return 100 + sum(self.requests)


class NewKey(FakeOracle):
    """Asked with a key that was never used."""

    def charged(self) -> int:
        return sum(self.requests)


class Interrupted(FakeOracle):
    """Ctrl-C is pressed during the first request, after it was charged."""

    def query(self, images: Images) -> Answers:
        answers = super().query(images)
        if len(self.requests) == 1:
            signal.raise_signal(signal.SIGINT)
        return answers


def striped(
    count: int, *, seed: int = 0
) -> tuple[Images, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Noise of 8x8 pixels in which the channel of the image's class is brighter."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    images = random.integers(0, 120, (count, 8, 8, 3)).astype(np.uint8)
    images[np.arange(count), :, :, labels] += 100
    return images, labels.astype(np.int64)


def save_striped(folder: Path) -> str:
    """Save the striped data set and return its name for a protocol."""
    train_x, train_y = striped(96)
    test_x, test_y = striped(48, seed=1)
    path = folder / "striped.npz"
    np.savez(path, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
    return f"npz:{path}"


class Contrary(FakeOracle):
    """Sells one other label."""

    def query(self, images: Images) -> Answers:
        answers = super().query(images)
        answers.indices[0] = np.roll(answers.indices[0], 1)
        return answers


def tiny_protocol(
    dataset: str,
    *,
    attacks: Sequence[str] = ('"label_only"', '"paper_kd"'),
    endpoints: Sequence[str] = ("stingy",),
    seeds: Sequence[int] = (0,),
    lr: float = 0.05,
    budget: int = 144,
) -> Protocol:
    """Make a protocol of two epochs of the smallest student.

    budget: of any size, though the protocol's file could not have a smaller one than it needs.
    """
    tables = "".join(
        f'[[endpoints]]\nname = "{name}"\nmodel = "pets"\ndefence = "{name}"\n'
        for name in endpoints
    )
    protocol = parse_protocol(
        f'title = "tiny"\ndataset = "{dataset}"\nbudget = 1000000\nstudents = ["cnn_tiny"]\n'
        f"seeds = {list(seeds)}\nepochs = 2\nbatch = 32\nlr = {lr}\n"
        f"attacks = [{', '.join(attacks)}]\n{tables}"
    )
    return protocol.model_copy(update={"budget": budget})


def audit(protocol: Protocol, out: Path, **oracles: Oracle) -> dict[str, Any]:
    """Run a whole audit without output, on one fake endpoint unless others are given."""
    found = oracles or {"stingy": FakeOracle()}
    return document(run_audit(protocol, oracles=found, out=out, console=Console(file=StringIO())))


def document(report: Report) -> dict[str, Any]:
    """Return the report as report.json has it."""
    return report.model_dump(mode="json")


def numbers(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the report's rows without their seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in report["rows"]]
