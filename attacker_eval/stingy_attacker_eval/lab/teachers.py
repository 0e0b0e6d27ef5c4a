"""Teachers to attack: a normal one and a nasty one, trained here and packed as bundles.

Each packed teacher records a digest of its settings and data, so that it is not trained twice.
"""

import hashlib
import itertools
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.environment import default_device
from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.files import digest_json, write_json
from stingy_attacker_eval.oracle.transfer_set import digest_images
from stingy_attacker_eval.progress import report_progress
from stingy_attacker_eval.students import StudentSpec, student_spec
from stingy_attacker_eval.training import (
    LossFn,
    TrainSettings,
    forward,
    memory_format,
    percent_equal,
    predict,
    to_device,
    train,
)
from stingy_protection import (
    BundleError,
    Preprocessing,
    nasty_loss,
    read_manifest,
    verified_weights,
    write_bundle,
)

_TEACHER_FILE = "teacher.json"
_TRAINING = TrainSettings(epochs=12, batch=64, lr=0.1, augment=1)


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """The settings of the training of a teacher and its nasty twin.

    name: prefix of the bundles' names.
    width: of the network's first block; None for the network's own.
    images: number of training images, None for all.
    skip: images to leave out first, as `Dataset.subset` does.
    nasty: train the nasty twin, too.
    omega, tau: weight and temperature of the nasty loss. None takes the published values: 0.005
        and 20 for CIFAR-100, used from 100 classes up, and 0.04 and 4 for CIFAR-10.
    nasty_from_normal: start the nasty twin from the normal teacher's weights. Else it starts from
        the normal teacher's initial weights.
    nasty_epochs, nasty_lr: of the nasty twin; None for those of the normal teacher.
    """

    name: str = ""
    network: str = "cnn_large"
    width: int | None = None
    training: TrainSettings = _TRAINING
    images: int | None = None
    skip: int = 0
    seed: int = 0
    nasty: bool = True
    omega: float | None = None
    tau: float | None = None
    nasty_from_normal: bool = False
    nasty_epochs: int | None = None
    nasty_lr: float | None = None


def teacher_settings(
    *, epochs: int | None = None, lr: float | None = None, **others: Any
) -> TeacherSettings:
    """Return the default settings with the given values in place of the defaults.

    epochs, lr: of the normal teacher.
    others: fields of TeacherSettings. None leaves a default as it is.

    Raises EvalError if a learning rate is not finite and above 0.
    """
    for rate in (lr, others.get("nasty_lr")):
        if rate is not None and not 0 < rate < float("inf"):
            raise EvalError(f"expected a finite learning rate above 0, got {rate}")
    given = {"epochs": epochs, "lr": lr}
    training: dict[str, Any] = {name: v for name, v in given.items() if v is not None}
    fields = {name: value for name, value in others.items() if value is not None}
    return replace(TeacherSettings(), training=replace(_TRAINING, **training), **fields)


@dataclass(frozen=True)
class Teacher:
    """A packed teacher.

    accuracy: percent of the test images.
    seconds: time of its training.
    kept: True if the teacher was there already, trained in the same way.
    """

    name: str
    bundle: Path
    accuracy: float
    seconds: float
    kept: bool = False


def train_teachers(
    data: Dataset,
    *,
    out: Path,
    settings: TeacherSettings | None = None,
    console: Console | None = None,
) -> tuple[Teacher, ...]:
    """Train a normal teacher, then its nasty twin against it, into OUT/normal and OUT/nasty.

    With settings.name the folders are OUT/NAME-normal and OUT/NAME-nasty. Both bundles have the
    policy "stingy", so a bundle is protected until an operator opens it. The nasty loss is
    equation 2 of "Undistillable" (Ma et al., ICLR 2021). A teacher in OUT of the same data and
    settings is kept, so a call after a kill continues with the next teacher.

    Raises EvalError if the network does not fit the data, or a loss is not finite.
    """
    settings = settings or TeacherSettings()
    spec = student_spec(settings.network).with_width(settings.width)
    spec.check(data.num_classes, data.image_size)
    owned = data.subset(settings.images, skip=settings.skip)
    device = default_device()
    images = to_device(owned.train_x, device)
    labels = torch.from_numpy(owned.train_y).to(device)
    test_images = to_device(data.test_x, device)
    epochs = itertools.count(1)
    nasty_training = replace(
        settings.training,
        epochs=settings.nasty_epochs or settings.training.epochs,
        lr=settings.nasty_lr or settings.training.lr,
    )
    total = settings.training.epochs + settings.nasty * nasty_training.epochs
    omega, tau = _choose_nasty_constants(settings, data.num_classes)
    facts = _describe_training(settings, spec, data, owned)

    def fit(
        kind: str,
        loss_fn: LossFn,
        training: TrainSettings,
        *,
        start: nn.Module | None = None,
        **more: object,
    ) -> tuple[nn.Module, Teacher]:
        name = f"{settings.name}-{kind}" if settings.name else kind
        digest = digest_json({**facts, "training": asdict(training), **more})
        found = _find_trained(out / name, name, digest)
        if found is not None:
            reporter.say(f"{name} is trained already and kept")
            model = load_network(out / name, spec, data).to(device)
            model.to(memory_format=memory_format(images))
            return model, found
        started = time.perf_counter()
        torch.manual_seed(settings.seed)
        model = spec.build(data.num_classes).to(device)
        if start is not None:
            model.load_state_dict(start.state_dict())
        result = train(
            model,
            images,
            loss_fn,
            settings=training,
            seed=settings.seed,
            pure=True,
            on_epoch_end=lambda: reporter.step(next(epochs), total, f"training {name}, epochs"),
        )
        if not result.finite:
            raise EvalError(
                f"expected a finite loss of the teacher {name}, got {result.last_loss}: lower the "
                "learning rate, or omega"
            )
        accuracy = percent_equal(predict(model, test_images).numpy(), data.test_y)
        seconds = time.perf_counter() - started
        weights = _pack(out / name, name, model, data, spec)
        record = {"spec": digest, "weights": weights, "accuracy": accuracy, "seconds": seconds}
        write_json(out / name / _TEACHER_FILE, record)
        return model, Teacher(name, out / name, accuracy, seconds)

    def cross_entropy(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels[rows])

    with report_progress(console or Console()) as reporter:
        normal, first = fit("normal", cross_entropy, settings.training)
        if not settings.nasty:
            return (first,)

        def nasty(logits: Tensor, rows: Tensor, inputs: Tensor) -> Tensor:
            with torch.no_grad():
                normal_logits = forward(normal, inputs)
            return nasty_loss(logits, labels[rows], normal_logits, omega=omega, tau=tau)

        normal_weights = read_manifest(first.bundle).sha256
        more: dict[str, Any] = {"omega": omega, "tau": tau, "normal": normal_weights}
        if settings.nasty_from_normal:
            more |= {"start": normal, "start_from": "normal"}
        return first, fit("nasty", nasty, nasty_training, **more)[1]


def load_network(folder: Path, spec: StudentSpec, data: Dataset) -> nn.Module:
    """Load the network of a packed teacher.

    Raises BundleError if the bundle is absent or damaged, RuntimeError if it has another network.
    """
    model = spec.build(data.num_classes)
    model.load_state_dict(verified_weights(folder, read_manifest(folder)))
    return model.eval()


def _choose_nasty_constants(settings: TeacherSettings, num_classes: int) -> tuple[float, float]:
    omega, tau = (0.005, 20.0) if num_classes >= 100 else (0.04, 4.0)
    omega = omega if settings.omega is None else settings.omega
    tau = tau if settings.tau is None else settings.tau
    if not 0 < omega < float("inf") or not 0 < tau < float("inf"):
        raise EvalError(f"expected finite omega and tau above 0, got {omega} and {tau}")
    return omega, tau


def _describe_training(
    settings: TeacherSettings, spec: StudentSpec, data: Dataset, owned: Dataset
) -> dict[str, object]:
    """Return all that determines a teacher's weights and accuracy, except the nasty constants."""
    labels = hashlib.sha256(owned.train_y.tobytes() + data.test_y.tobytes()).hexdigest()
    return {
        "factory": spec.factory,
        "arguments": spec.settings(data.num_classes),
        "seed": settings.seed,
        "classes": data.class_names,
        "images": [digest_images(owned.train_x), digest_images(data.test_x), labels],
    }


def _find_trained(folder: Path, name: str, digest: str) -> Teacher | None:
    """Return the folder's teacher if it is complete and has this digest, else None."""
    try:
        record = json.loads((folder / _TEACHER_FILE).read_bytes())
        manifest = read_manifest(folder)
        verified_weights(folder, manifest)
        if (record["spec"], record["weights"], manifest.name) != (digest, manifest.sha256, name):
            return None
        return Teacher(name, folder, float(record["accuracy"]), float(record["seconds"]), kept=True)
    except (OSError, ValueError, KeyError, TypeError, BundleError):
        return None


def _pack(folder: Path, name: str, model: nn.Module, data: Dataset, spec: StudentSpec) -> str:
    """Write the bundle and return its weights' SHA-256."""
    half = (0.5, 0.5, 0.5)  # as training.normalise does
    manifest = write_bundle(
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
    return manifest.sha256
