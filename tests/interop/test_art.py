"""ART's extraction attacks through a running endpoint, beside our own on the same images.

ART (adversarial-robustness-toolbox) knows nothing of Stingy: it has a function that predicts.
Student, initial weights, schedule, images and number of queries are equal. What remains is the
order of the batches, so only means over seeds are compared, and with room.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from attack_lab import CPU, digits, digits_teacher
from serving import make_key, served
from stingy_attacker_eval.attacks import Attack, AttackerData, build_attacks
from stingy_attacker_eval.oracle.cached_oracle import CachedOracle
from stingy_attacker_eval.oracle.oracle import HttpOracle, dense_logits
from stingy_attacker_eval.oracle.transfer_set import buy_answers
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import TrainSettings, percent_equal, predict, to_device
from stingy_clients import Client
from stingy_protection import Preprocessing, write_bundle

pytest.importorskip("art", reason="needs ART: make test-art")
pytestmark = pytest.mark.filterwarnings("default")

QUERIES, SEEDS = 600, range(3)
# A constant rate and plain momentum, which both can do.
SETTINGS = TrainSettings(epochs=10, batch=50, lr=0.02, milestones=(1000,))
MOST_APART = 4.0  # points of accuracy
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Live:
    """A running endpoint, and what was bought from it for our own attacks."""

    client: Client
    oracle: HttpOracle
    data: AttackerData

    def predict(self, scaled: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Answer images `[n, 3, H, W]` in 0..1 with probabilities; 0 where withheld."""
        pixels = np.rint(scaled * 255).astype(np.uint8).transpose(0, 2, 3, 1)
        answers = self.oracle.query(np.ascontiguousarray(pixels))
        if answers.scores is None:
            return np.eye(10, dtype=np.float32)[answers.top1]
        return dense_logits(answers, CPU).softmax(dim=1).numpy()


@pytest.fixture(scope="module", params=["open", "stingy", "label"])
def live(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("art")
    half = (0.5, 0.5, 0.5)
    write_bundle(
        folder / "bundle",
        model=digits_teacher(),
        name="digits",
        version="1",
        factory="stingy_attacker_eval.students:cnn",
        arguments={"num_classes": 10, "width": 16},
        classes=tuple("0123456789"),
        preprocessing=Preprocessing(size=(8, 8), mean=half, std=half),
        policy=request.param,
    )
    (folder / "stingy.toml").write_text(
        'allow_open = true\ntrusted_factories = ["stingy_attacker_eval.students"]\n'
        f'[[models]]\nbundle = "{folder / "bundle"}"\n'
    )
    key = make_key(folder / "state")
    images, _, _, _ = digits()
    with (
        served("--config", folder / "stingy.toml", state=folder / "state") as (url, _),
        Client(url, key) as client,
    ):
        oracle = HttpOracle(client, model="digits")
        cached = CachedOracle(oracle, folder=folder / "answers", budget=QUERIES)
        answers = buy_answers(cached, images)
        own = to_device(images, CPU)
        data = AttackerData.from_answers(own, None, answers, oracle.describe())
        yield Live(client, oracle, data)


def new_student(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return student_spec("cnn_tiny").build(10)


def accuracy(student: nn.Module) -> float:
    _, _, images, labels = digits()
    return percent_equal(predict(student, to_device(images, CPU)).numpy(), labels.numpy())


def ours(live: Live, name: str) -> float:
    (attack,) = build_attacks(name, {})
    assert isinstance(attack, Attack)
    found = []
    for seed in SEEDS:
        student = new_student(seed)
        attack.run(student, live.data, settings=SETTINGS, seed=seed)
        found.append(accuracy(student))
    return float(np.mean(found))


def theirs(live: Live, extraction: type[Any], **options: Any) -> float:
    """Return the mean accuracy of ART's students."""
    from art.estimators.classification import (  # type: ignore[import-not-found]
        BlackBoxClassifier,
        PyTorchClassifier,
    )

    images, _, _, _ = digits()
    scaled = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    victim = BlackBoxClassifier(
        live.predict, input_shape=(3, 8, 8), nb_classes=10, clip_values=(0, 1)
    )
    found = []
    for seed in SEEDS:
        student = new_student(seed)
        optimizer = torch.optim.SGD(
            student.parameters(), lr=SETTINGS.lr, momentum=0.9, weight_decay=5e-4
        )
        thief = PyTorchClassifier(
            student,
            loss=nn.CrossEntropyLoss(),
            optimizer=optimizer,
            input_shape=(3, 8, 8),
            nb_classes=10,
            clip_values=(0, 1),
            preprocessing=(0.5, 0.5),
            device_type="cpu",
        )
        np.random.seed(seed)  # ART draws from numpy's global generator
        attack = extraction(
            victim,
            batch_size_fit=SETTINGS.batch,
            batch_size_query=200,
            nb_epochs=SETTINGS.epochs,
            nb_stolen=QUERIES,
            **options,
        )
        attack.extract(scaled, thieved_classifier=thief)
        found.append(accuracy(student))
    return float(np.mean(found))


def test_arts_copycat_gains_what_label_only_gains(live: Live) -> None:
    from art.attacks.extraction import CopycatCNN  # type: ignore[import-not-found]

    before = live.client.usage().used
    art = theirs(live, CopycatCNN)
    assert live.client.usage().used - before == QUERIES * len(SEEDS)
    assert abs(art - ours(live, "label_only")) < MOST_APART
    assert art > 70


def test_arts_knockoff_gains_what_soft_label_gains(live: Live) -> None:
    from art.attacks.extraction import KnockoffNets

    before = live.client.usage().used
    options = {"sampling_strategy": "random", "use_probability": True, "verbose": False}
    art = theirs(live, KnockoffNets, **options)
    assert live.client.usage().used - before == QUERIES * len(SEEDS)
    name = "label_only" if live.data.logits is None else "soft_label"
    assert abs(art - ours(live, name)) < MOST_APART
    assert art > 70
