"""The lab's teachers are bundles like any other: readable, protected, loadable by their factory."""

from pathlib import Path

import pytest
import torch

from stingy_attacker_eval.data import load_dataset
from stingy_attacker_eval.lab import TeacherSettings, train_teachers
from stingy_attacker_eval.students import cnn
from stingy_attacker_eval.train import TrainSettings, percent_equal, predict, to_device
from stingy_protection import read_manifest, verified_weights

SETTINGS = TeacherSettings(width=8, training=TrainSettings(epochs=2, batch=64, lr=0.05))


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
