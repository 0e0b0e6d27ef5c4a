"""Teachers to steal from, made white-box: a normal one and a nasty one, packed as bundles."""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.data import Dataset, load_dataset
from stingy_attacker_eval.environment import default_device
from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.progress import reporting
from stingy_attacker_eval.protocol import Protocol
from stingy_attacker_eval.students import StudentSpec, student_spec
from stingy_attacker_eval.train import (
    LossFn,
    TrainSettings,
    forward,
    percent_equal,
    predict,
    to_device,
    train,
)
from stingy_protection import Preprocessing, nasty_loss, write_bundle

_TRAINING = TrainSettings(epochs=12, batch=64, lr=0.1, augment=1)


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """How a teacher and its nasty twin are trained.

    name: what the bundles' names begin with. images: how many of the training images, None for
    all. omega and tau: weight and temperature of the nasty loss, None for what was published:
    0.005 and 20 for CIFAR-100, taken from 100 classes up, and 0.04 and 4 for CIFAR-10.
    """

    name: str = ""
    network: str = "cnn_large"
    training: TrainSettings = _TRAINING
    images: int | None = None
    seed: int = 0
    nasty: bool = True
    omega: float | None = None
    tau: float | None = None


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
) -> tuple[Teacher, ...]:
    """Train a normal teacher, then its nasty twin against it, into OUT/normal and OUT/nasty.

    With settings.name the folders are OUT/NAME-normal and OUT/NAME-nasty. Both bundles carry the
    policy "stingy": a bundle is protected unless someone opens it. The nasty loss is that of
    "Undistillable" (Ma et al., ICLR 2021), equation 2. Raises EvalError.
    """
    settings = settings or TeacherSettings()
    spec = student_spec(settings.network)
    spec.check(data.num_classes, data.image_size)
    owned = data.subset(settings.images)
    device = default_device()
    images = to_device(owned.train_x, device)
    labels = torch.from_numpy(owned.train_y).to(device)
    test_images = to_device(data.test_x, device)
    epochs = itertools.count(1)
    total = (1 + settings.nasty) * settings.training.epochs

    def fit(twin: str, loss_fn: LossFn) -> tuple[nn.Module, Teacher]:
        name = f"{settings.name}-{twin}" if settings.name else twin
        started = time.perf_counter()
        torch.manual_seed(settings.seed)
        model = spec.build(data.num_classes).to(device)
        result = train(
            model,
            images,
            loss_fn,
            settings=settings.training,
            seed=settings.seed,
            epoch_done=lambda: reporter.step(next(epochs), total, f"training {name}, epochs"),
        )
        if not result.finite:
            raise EvalError(
                f"expected a finite loss of the teacher {name}, got another: lower the learning "
                "rate, or omega"
            )
        accuracy = percent_equal(predict(model, test_images).numpy(), data.test_y)
        seconds = time.perf_counter() - started
        _pack(out / name, name, model, data, spec)
        return model, Teacher(name, out / name, accuracy, seconds)

    def cross_entropy(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels[rows])

    with reporting(console or Console()) as reporter:
        normal, first = fit("normal", cross_entropy)
        if not settings.nasty:
            return (first,)
        omega, tau = _nasty_constants(settings, data.num_classes)

        def nasty(logits: Tensor, rows: Tensor, inputs: Tensor) -> Tensor:
            with torch.no_grad():
                normal_logits = forward(normal, inputs)
            return nasty_loss(logits, labels[rows], normal_logits, omega=omega, tau=tau)

        return first, fit("nasty", nasty)[1]


def train_protocol_teachers(
    protocol: Protocol, *, out: Path, console: Console | None = None
) -> tuple[Teacher, ...]:
    """Every teacher the protocol describes, into OUT, beside OUT/stingy.toml, which serves them.

    `stingy serve --config OUT/stingy.toml` then answers as every endpoint of the protocol that
    names a bundle. Raises EvalError when the protocol describes no teacher.
    """
    if not protocol.teachers:
        raise EvalError("expected a protocol with [[teachers]], got one without")
    data = load_dataset(protocol.dataset)
    found: list[Teacher] = []
    for entry in protocol.teachers:
        settings = TeacherSettings(
            name=entry.name,
            network=entry.network,
            training=entry.training,
            images=entry.images,
            seed=entry.seed,
            nasty=entry.nasty,
            omega=entry.omega,
            tau=entry.tau,
        )
        found += train_teachers(data, out=out, settings=settings, console=console)
    (out / "stingy.toml").write_text(serving(protocol))
    return tuple(found)


def serving(protocol: Protocol) -> str:
    """The server's settings, TOML, for the endpoints that name a bundle; beside the bundles."""
    factories = {student_spec(teacher.network).factory for teacher in protocol.teachers}
    modules = ", ".join(sorted({f'"{factory.partition(":")[0]}"' for factory in factories}))
    models = "".join(
        f'\n[[models]]\nname = "{endpoint.model}"\nbundle = "{endpoint.bundle}"\n'
        + (f'policy = "{endpoint.policy}"\n' if endpoint.policy else "")
        for endpoint in protocol.endpoints
        if endpoint.bundle
    )
    return (
        "# Teachers of a laboratory: some of them let everything out.\n"
        f'allow_open = true\nstate = "state"\ntrusted_factories = [{modules}]\n{models}'
    )


def _nasty_constants(settings: TeacherSettings, num_classes: int) -> tuple[float, float]:
    omega, tau = (0.005, 20.0) if num_classes >= 100 else (0.04, 4.0)
    return (
        omega if settings.omega is None else settings.omega,
        tau if settings.tau is None else settings.tau,
    )


def _pack(folder: Path, name: str, model: nn.Module, data: Dataset, spec: StudentSpec) -> None:
    half = (0.5, 0.5, 0.5)  # what train.normalise does
    write_bundle(
        folder,
        model=model,
        name=name,
        version="1",
        factory=spec.factory,
        arguments=spec.settings(data.num_classes),
        classes=data.class_names,
        preprocessing=Preprocessing(size=data.image_size, mean=half, std=half),
        policy="stingy",
    )
