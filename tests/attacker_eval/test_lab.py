"""The lab's teachers are bundles like any other: readable, protected, loadable by their factory."""

from pathlib import Path

import pytest
import torch
from tests.attacker_eval.fakes import save_striped

from stingy_attacker_eval.data import load_dataset
from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.lab import TeacherSettings, train_protocol_teachers, train_teachers
from stingy_attacker_eval.protocol import parse_protocol
from stingy_attacker_eval.students import cnn, student_spec
from stingy_attacker_eval.train import TrainSettings, percent_equal, predict, to_device
from stingy_protection import read_manifest, verified_weights
from stingy_server import Settings
from stingy_server.settings import load_settings

SETTINGS = TeacherSettings(network="cnn_tiny", training=TrainSettings(epochs=2, batch=64, lr=0.05))


def test_the_lab_packs_a_normal_and_a_nasty_teacher(tmp_path: Path) -> None:
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
        # The bundle alone gives the accuracy that was reported.
        model = cnn(num_classes=10, width=8)
        model.load_state_dict(verified_weights(teacher.bundle, manifest))
        images = to_device(data.test_x, torch.device("cpu"))
        found = percent_equal(predict(model, images).numpy(), data.test_y)
        assert found == pytest.approx(teacher.accuracy)
        assert found > 50
        weights.append(model.classifier.weight)
    assert not torch.equal(*weights)


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


PROTOCOL = """
title = "t"
dataset = "{dataset}"
budget = 144
students = ["cnn_tiny"]
seeds = [0]
epochs = 1
attacks = ["label_only"]

[[teachers]]
name = "small"
network = "resnet8"
images = 32
epochs = 2
batch = 16
lr = 0.05

[[teachers]]
name = "plain"
network = "cnn_tiny"
epochs = 1
nasty = false

[[endpoints]]
name = "nasty"
model = "one"
defence = "nasty"
bundle = "small-nasty"
policy = "open"

[[endpoints]]
name = "stingy"
model = "two"
defence = "stingy"
bundle = "plain-normal"
policy = "stingy:n=2"

[[endpoints]]
name = "elsewhere"
model = "three"
defence = "unknown"
"""


def test_a_protocols_teachers_are_trained_and_can_be_served(tmp_path: Path) -> None:
    protocol = parse_protocol(PROTOCOL.format(dataset=save_striped(tmp_path)))
    teachers = train_protocol_teachers(protocol, out=tmp_path / "bundles")
    assert [t.name for t in teachers] == ["small-normal", "small-nasty", "plain-normal"]
    manifest = read_manifest(tmp_path / "bundles" / "small-nasty")
    assert manifest.factory == "stingy_attacker_eval.zoo:resnet8"
    model = student_spec("resnet8").build(3)
    model.load_state_dict(verified_weights(tmp_path / "bundles" / "small-nasty", manifest))
    settings, faults = load_settings(tmp_path / "bundles" / "stingy.toml")
    assert not faults
    assert served(settings) == [
        ("one", "small-nasty", "open"),
        ("two", "plain-normal", "stingy:n=2"),
    ]
    assert "stingy_attacker_eval.zoo" in settings.trusted_factories


def served(settings: Settings) -> list[tuple[str | None, str, str | None]]:
    return [(model.name, model.bundle.name, model.policy) for model in settings.models]


def test_a_protocol_without_teachers_has_none_to_train(tmp_path: Path) -> None:
    text = PROTOCOL.format(dataset=save_striped(tmp_path))
    text = text[: text.index("[[teachers]]")] + text[text.index('[[endpoints]]\nname = "else') :]
    with pytest.raises(EvalError, match=r"\[\[teachers\]\]"):
        train_protocol_teachers(parse_protocol(text), out=tmp_path)


def weights_of(folder: Path, *, omega: float | None = None, tau: float | None = None) -> str:
    """The digest of the nasty twin after one epoch."""
    training = TrainSettings(epochs=1, batch=32, lr=0.05)
    settings = TeacherSettings(network="cnn_tiny", training=training, omega=omega, tau=tau)
    _, nasty = train_teachers(load_dataset(save_striped(folder)), out=folder, settings=settings)
    return read_manifest(nasty.bundle).sha256


def test_the_nasty_constants_are_the_published_ones_and_can_be_changed(tmp_path: Path) -> None:
    # Three classes: those of CIFAR-10.
    assert weights_of(tmp_path) == weights_of(tmp_path, omega=0.04, tau=4.0)
    assert weights_of(tmp_path) != weights_of(tmp_path, omega=0.005, tau=20.0)


def test_a_network_that_does_not_fit_the_images_is_refused_before_training(tmp_path: Path) -> None:
    settings = TeacherSettings(network="torchvision:vit_b_32")
    with pytest.raises(EvalError, match="takes no images"):
        train_teachers(load_dataset("digits"), out=tmp_path, settings=settings)


def test_a_loss_that_is_not_finite_packs_nothing(tmp_path: Path) -> None:
    training = TrainSettings(epochs=1, lr=1e30)
    settings = TeacherSettings(network="cnn_tiny", training=training)
    with pytest.raises(EvalError, match="finite loss of the teacher normal"):
        train_teachers(load_dataset("digits"), out=tmp_path, settings=settings)
    assert list(tmp_path.iterdir()) == []
