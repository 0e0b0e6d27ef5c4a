"""Teachers to steal from, made white-box: a normal one and a nasty one, packed as bundles."""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.data import Dataset
from stingy_attacker_eval.environment import default_device
from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.progress import reporting
from stingy_attacker_eval.students import FACTORY, Cnn, cnn
from stingy_attacker_eval.train import (
    LossFn,
    TrainSettings,
    percent_equal,
    predict,
    to_device,
    train,
)
from stingy_protection import Preprocessing, nasty_loss, write_bundle

_TRAINING = TrainSettings(epochs=12, batch=64, lr=0.1, augment=1)


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """How both teachers are trained.

    omega and tau: weight and temperature of the nasty loss, as published for CIFAR-10.
    """

    width: int = 32
    training: TrainSettings = _TRAINING
    omega: float = 0.04
    tau: float = 4.0
    seed: int = 0


@dataclass(frozen=True)
class Teacher:
    """A packed teacher: accuracy in percent of the test images, seconds to train."""

    name: str
    bundle: Path
    accuracy: float
    seconds: float


def train_teachers(
    data: Dataset,
    *,
    out: Path,
    settings: TeacherSettings | None = None,
    console: Console | None = None,
) -> tuple[Teacher, Teacher]:
    """Train a normal teacher, then its nasty twin against it, into OUT/normal and OUT/nasty.

    Both bundles carry the policy "stingy": a bundle is protected unless someone opens it. The
    nasty loss is that of "Undistillable" (Ma et al., ICLR 2021), equation 2.
    """
    settings = settings or TeacherSettings()
    device = default_device()
    images = to_device(data.train_x, device)
    labels = torch.from_numpy(data.train_y).to(device)
    test_images = to_device(data.test_x, device)
    epochs = itertools.count(1)

    def fit(name: str, loss_fn: LossFn) -> Cnn:
        model = _fresh(data, settings, device)

        def epoch_done() -> None:
            reporter.step(next(epochs), 2 * settings.training.epochs, f"training {name}, epochs")

        result = train(
            model,
            images,
            loss_fn,
            settings=settings.training,
            seed=settings.seed,
            epoch_done=epoch_done,
        )
        if not result.finite:
            raise EvalError(f"expected a finite loss of the {name} teacher, got another")
        return model.eval()

    def finish(name: str, model: Cnn, started: float) -> Teacher:
        accuracy = percent_equal(predict(model, test_images).numpy(), data.test_y)
        seconds = time.perf_counter() - started
        _pack(out / name, name, model, data, settings)
        return Teacher(name, out / name, accuracy, seconds)

    def cross_entropy(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels[rows])

    with reporting(console or Console()) as reporter:
        started = time.perf_counter()
        normal = fit("normal", cross_entropy)
        first = finish("normal", normal, started)

        def nasty(logits: Tensor, rows: Tensor, inputs: Tensor) -> Tensor:
            with torch.no_grad():
                normal_logits = normal(inputs).float()
            return nasty_loss(
                logits, labels[rows], normal_logits, omega=settings.omega, tau=settings.tau
            )

        started = time.perf_counter()
        return first, finish("nasty", fit("nasty", nasty), started)


def _fresh(data: Dataset, settings: TeacherSettings, device: torch.device) -> Cnn:
    torch.manual_seed(settings.seed)
    return cnn(num_classes=data.num_classes, width=settings.width).to(device)


def _pack(folder: Path, name: str, model: Cnn, data: Dataset, settings: TeacherSettings) -> None:
    half = (0.5, 0.5, 0.5)  # what train.normalise does
    write_bundle(
        folder,
        model=model,
        name=name,
        version="1",
        factory=FACTORY,
        arguments={"num_classes": data.num_classes, "width": settings.width},
        classes=data.class_names,
        preprocessing=Preprocessing(size=data.image_size, mean=half, std=half),
        policy="stingy",
    )
