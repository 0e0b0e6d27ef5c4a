"""The lab's teachers are ordinary bundles: readable, protected, loadable by their factory."""

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from audit_fakes import save_striped
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.datasets.datasets import load_dataset
from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.lab.teachers import TeacherSettings, train_teachers
from stingy_attacker_eval.students import cnn, student_spec
from stingy_attacker_eval.training import TrainSettings, percent_equal, predict, to_device
from stingy_protection import (
    read_manifest,
    verified_weights,
)

SETTINGS = TeacherSettings(network="cnn_tiny", training=TrainSettings(epochs=2, batch=64, lr=0.05))


def test_lab_packs_a_normal_and_a_nasty_teacher(tmp_path: Path) -> None:
    data = load_dataset("digits")
    teachers = train_teachers(data, out=tmp_path, settings=SETTINGS)
    assert [teacher.name for teacher in teachers] == ["normal", "nasty"]
    weights = []
    for teacher in teachers:
        manifest = read_manifest(teacher.bundle)
        assert (manifest.name, manifest.policy) == (teacher.name, "stingy")
        assert manifest.factory == "stingy_attacker_eval.students:cnn"
        assert manifest.classes == data.class_names
        assert manifest.preprocessing.size == (8, 8)
        # A model loaded from the bundle has the reported accuracy.
        model = cnn(num_classes=10, width=8)
        model.load_state_dict(verified_weights(teacher.bundle, manifest))
        images = to_device(data.test_x, torch.device("cpu"))
        found = percent_equal(predict(model, images).numpy(), data.test_y)
        assert found == pytest.approx(teacher.accuracy)
        assert found > 50
        weights.append(model.classifier.weight)
    assert not torch.equal(*weights)


def test_nasty_from_normal_starts_from_the_normal_weights(tmp_path: Path) -> None:
    data = load_dataset("digits")
    settings = replace(SETTINGS, nasty_from_normal=True, omega=1e-9)
    normal, nasty = train_teachers(data, out=tmp_path / "a", settings=settings)
    scratch = train_teachers(
        data, out=tmp_path / "b", settings=replace(settings, nasty_from_normal=False)
    )[1]
    # With almost no nasty loss, this is more epochs of the same training.
    assert nasty.accuracy > normal.accuracy
    weights = [verified_weights(t.bundle, read_manifest(t.bundle)) for t in (nasty, scratch)]
    assert not torch.equal(*(found["classifier.weight"] for found in weights))


def test_E4_the_same_seed_packs_the_same_weights(tmp_path: Path) -> None:
    data = load_dataset("digits")
    digests = [
        [
            read_manifest(teacher.bundle).sha256
            for teacher in train_teachers(data, out=tmp_path / name, settings=SETTINGS)
        ]
        for name in ("one", "two")
    ]
    assert digests[0] == digests[1]


def test_teacher_trained_in_the_same_way_is_reused(tmp_path: Path) -> None:
    data = load_dataset(save_striped(tmp_path))
    console = Console(file=StringIO())
    settings = replace(SETTINGS, training=replace(SETTINGS.training, epochs=1))
    first = train_teachers(data, out=tmp_path, settings=settings)
    second = train_teachers(data, out=tmp_path, settings=settings, console=console)
    assert [teacher.kept for teacher in first] == [False, False]
    assert second == tuple(replace(teacher, kept=True) for teacher in first)
    assert isinstance(console.file, StringIO)
    assert "nasty is trained already and kept" in console.file.getvalue()


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"images": 64},
        {"skip": 32},
        {"network": "cnn_small"},
        {"training": TrainSettings(epochs=1, batch=64, lr=0.04)},
    ],
)
def test_teacher_with_other_settings_is_trained_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    data = load_dataset(save_striped(tmp_path))
    settings = replace(SETTINGS, training=replace(SETTINGS.training, epochs=1))
    train_teachers(data, out=tmp_path, settings=settings)
    found = train_teachers(data, out=tmp_path, settings=replace(settings, **other))
    assert [teacher.kept for teacher in found] == [False, False]


def test_lab_killed_between_teachers_resumes_with_same_weights(
    tmp_path: Path,
) -> None:
    data = load_dataset(save_striped(tmp_path))
    whole = train_teachers(data, out=tmp_path / "whole", settings=SETTINGS)
    without = replace(SETTINGS, nasty=False)
    train_teachers(data, out=tmp_path / "killed", settings=without)
    # A kill while the second was packed leaves weights without a matching manifest.
    (tmp_path / "killed" / "nasty").mkdir()
    (tmp_path / "killed" / "nasty" / "weights.safetensors").write_bytes(b"half")
    resumed = train_teachers(data, out=tmp_path / "killed", settings=SETTINGS)
    assert [teacher.kept for teacher in resumed] == [True, False]
    digests = [[read_manifest(t.bundle).sha256 for t in found] for found in (whole, resumed)]
    assert digests[0] == digests[1]


def test_damaged_teacher_is_retrained(tmp_path: Path) -> None:
    data = load_dataset(save_striped(tmp_path))
    settings = replace(SETTINGS, nasty=False)
    (teacher,) = train_teachers(data, out=tmp_path, settings=settings)
    weights = teacher.bundle / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert not train_teachers(data, out=tmp_path, settings=settings)[0].kept


def nasty_digest(folder: Path, *, omega: float | None = None, tau: float | None = None) -> str:
    """Train the nasty twin for one epoch and return its weights' digest."""
    training = TrainSettings(epochs=1, batch=32, lr=0.05)
    settings = TeacherSettings(network="cnn_tiny", training=training, omega=omega, tau=tau)
    _, nasty = train_teachers(load_dataset(save_striped(folder)), out=folder, settings=settings)
    return read_manifest(nasty.bundle).sha256


def test_nasty_constants_are_as_published_by_default(tmp_path: Path) -> None:
    # Three classes: those of CIFAR-10.
    assert nasty_digest(tmp_path) == nasty_digest(tmp_path, omega=0.04, tau=4.0)
    assert nasty_digest(tmp_path) != nasty_digest(tmp_path, omega=0.005, tau=20.0)


def test_network_unfit_for_the_images_is_refused_before_training(tmp_path: Path) -> None:
    settings = TeacherSettings(network="torchvision:vit_b_32")
    with pytest.raises(EvalError, match="takes no images"):
        train_teachers(load_dataset("digits"), out=tmp_path, settings=settings)


def test_non_finite_loss_packs_nothing(tmp_path: Path) -> None:
    training = TrainSettings(epochs=1, lr=1e30)
    settings = TeacherSettings(network="cnn_tiny", training=training)
    with pytest.raises(EvalError, match="finite loss of the teacher normal"):
        train_teachers(load_dataset("digits"), out=tmp_path, settings=settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("constants", [{"omega": 0.0}, {"tau": 0.0}, {"tau": float("inf")}])
def test_invalid_nasty_constants_are_refused_before_training(
    tmp_path: Path, constants: dict[str, Any]
) -> None:
    with pytest.raises(EvalError, match="finite omega and tau above 0"):
        train_teachers(
            load_dataset("digits"), out=tmp_path, settings=replace(SETTINGS, **constants)
        )
    assert list(tmp_path.iterdir()) == []


def test_width_and_the_nasty_twins_own_training_are_settings(tmp_path: Path) -> None:
    data = load_dataset(save_striped(tmp_path))
    settings = replace(
        SETTINGS, width=5, nasty_from_normal=True, nasty_epochs=1, nasty_lr=0.01, omega=0.1
    )
    first = train_teachers(data, out=tmp_path, settings=settings)
    for teacher in first:
        assert read_manifest(teacher.bundle).arguments == {"num_classes": 3, "width": 5}
    second = train_teachers(data, out=tmp_path, settings=replace(settings, nasty_lr=0.02))
    assert [teacher.kept for teacher in second] == [True, False]
    second = train_teachers(data, out=tmp_path, settings=replace(settings, nasty_epochs=2))
    assert [teacher.kept for teacher in second] == [True, False]
    with pytest.raises(EvalError, match="a network with a width, got resnet8"):
        student_spec("resnet8").with_width(5)


def test_nasty_teacher_leaves_the_normal_one_further_with_omega(tmp_path: Path) -> None:
    data = load_dataset("digits")
    images = to_device(data.test_x, torch.device("cpu"))

    def gap(omega: float) -> float:
        settings = replace(
            SETTINGS, nasty_from_normal=True, nasty_epochs=4, nasty_lr=0.05, omega=omega, tau=4.0
        )
        logits = []
        for teacher in train_teachers(data, out=tmp_path / str(omega), settings=settings):
            model = student_spec("cnn_tiny").build(10)
            model.load_state_dict(verified_weights(teacher.bundle, read_manifest(teacher.bundle)))
            logits.append(compute_logits(model, images))
        normal, nasty = ((each / 4).log_softmax(1) for each in logits)
        return float((nasty.exp() * (nasty - normal)).sum(1).mean())

    assert gap(0.1) > 2 * gap(1e-9)
