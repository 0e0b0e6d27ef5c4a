"""The thieves of a study: each trains a student on marked answers, in a way of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks import AttackerData, build_attacks
from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.errors import StudyError
from stingy_attacker_eval.mark_study.marking import MarkingOracle
from stingy_attacker_eval.oracle.query_session import QuerySession
from stingy_attacker_eval.training import TrainSettings, predict, train

_DOUBT = 0.05
_PRUNED = 0.3
_TUNING_LR = 0.02


@dataclass(frozen=True)
class Loot:
    """The data of a thief, and the settings of its student.

    images: uint8 `[n, 3, H, W]`; labels: their true classes, int64 `[n]`.
    clean, clean_labels: other images that the thief labelled himself.
    build: a function that builds a new student.
    oracle: the endpoint with a marked key.
    honest: the endpoint with a key that is not in alarm.
    """

    images: Tensor
    labels: Tensor
    clean: Tensor
    clean_labels: Tensor
    build: Callable[[], nn.Module]
    oracle: MarkingOracle
    honest: MarkingOracle
    settings: TrainSettings
    seed: int


@dataclass(frozen=True)
class Stolen:
    """A thief's student, and the images that were queried for it."""

    student: nn.Module
    queries: int
    finite: bool


Thief: TypeAlias = Callable[[Loot], Stolen]


def _attack(name: str, *, plain: bool = False, **settings: object) -> Thief:
    """Make the thief that runs an attack of the audit.

    plain: train without shifts and flips, which lets a student memorise.
    """

    def run(loot: Loot) -> Stolen:
        (attack,) = build_attacks(name, settings)
        data = _buy(loot, loot.oracle)
        session = QuerySession(loot.oracle, budget=attack.budget(len(loot.images)))
        training = replace(loot.settings, augment=0, flip=False) if plain else loot.settings
        student = loot.build()
        result = attack.run(
            student, replace(data, session=session), settings=training, seed=loot.seed
        )
        return _stolen(loot, student, finite=result.finite)

    return run


def _semi_supervised(loot: Loot) -> Stolen:
    """Buy a fifth of the answers only, and train on all images."""
    (attack,) = build_attacks("semi_supervised", {"queries": len(loot.images) // 5})
    session = QuerySession(loot.oracle, budget=len(loot.images))
    data = AttackerData(loot.images, info=loot.oracle.describe(), session=session)
    student = loot.build()
    result = attack.run(student, data, settings=loot.settings, seed=loot.seed)
    return _stolen(loot, student, finite=result.finite)


def _collusion(loot: Loot) -> Stolen:
    """Buy with a marked and an honest key, and leave out the inputs whose answers differ."""
    marked, honest = _buy(loot, loot.oracle), _buy(loot, loot.honest)
    rows = (_top1(marked) == _top1(honest)).nonzero()[:, 0]
    student, finite = _train_on_labels(loot, loot.images[rows], _top1(honest)[rows])
    return _stolen(loot, student, finite=finite, more_queries=loot.honest.charged())


def _second_student(loot: Loot) -> Stolen:
    """Train a second student on the labels of a first one, which was trained on the answers."""
    first, _ = _train_on_labels(loot, loot.images, _top1(_buy(loot, loot.oracle)))
    student, finite = _train_on_labels(loot, loot.images, predict(first, loot.images))
    return _stolen(loot, student, finite=finite)


def _doubt(loot: Loot) -> Stolen:
    """Leave out the answers that a student of the other half of the answers doubts.

    References:
        "Confident Learning" (Northcutt et al., JAIR 2021), section 3, with a fixed threshold.
    """
    top1 = _top1(_buy(loot, loot.oracle))
    half = len(top1) // 2
    parts = slice(0, half), slice(half, len(top1))
    believed = torch.zeros(len(top1), dtype=torch.bool)
    for own, other in (parts, parts[::-1]):
        judge, _ = _train_on_labels(loot, loot.images[own], top1[own])
        shares = functional.softmax(compute_logits(judge, loot.images[other]), dim=1)
        believed[other] = shares.gather(1, top1[other, None])[:, 0] >= _DOUBT
    student, finite = _train_on_labels(loot, loot.images[believed], top1[believed])
    return _stolen(loot, student, finite=finite)


def _fine_pruning(loot: Loot) -> Stolen:
    """Prune the channels that clean images leave dormant, then train on clean images.

    References:
        "Fine-Pruning" (Liu et al., RAID 2018), section 3.
    """
    student, _ = _train_on_labels(loot, loot.images, _top1(_buy(loot, loot.oracle)))
    prune_dormant(student, loot.clean, share=_PRUNED)
    epochs = max(1, loot.settings.epochs // 2)
    finite = train(
        student,
        loot.clean,
        lambda logits, rows, _: functional.cross_entropy(logits, loot.clean_labels[rows]),
        settings=replace(loot.settings, epochs=epochs, lr=_TUNING_LR),
        seed=loot.seed,
        pure=True,
    ).finite
    return _stolen(loot, student, finite=finite)


def prune_dormant(student: nn.Module, images: Tensor, *, share: float) -> None:
    """Zero the channels of the last normalisation that are least active on the images."""
    layers = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    if not layers:
        raise StudyError("expected a student with a batch normalisation, got one without")
    sums: list[Tensor] = []

    def record(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        sums.append(functional.relu(output).sum(dim=(0, 2, 3)))

    hook = layers[-1].register_forward_hook(record)
    compute_logits(student, images)
    hook.remove()
    dormant = torch.stack(sums).sum(dim=0).argsort()[: int(share * layers[-1].num_features)]
    with torch.no_grad():
        layers[-1].weight[dormant] = 0.0
        layers[-1].bias[dormant] = 0.0


def _buy(loot: Loot, oracle: MarkingOracle) -> AttackerData:
    """Buy an answer for each own image, with the true labels beside it."""
    session = QuerySession(oracle, budget=len(loot.images))
    answers = session.query(loot.images)
    return AttackerData.from_answers(loot.images, loot.labels, answers, oracle.describe())


def _top1(data: AttackerData) -> Tensor:
    if data.top1 is None:
        raise StudyError("expected answers, got none")
    return data.top1


def _train_on_labels(loot: Loot, images: Tensor, labels: Tensor) -> tuple[nn.Module, bool]:
    return train_on_labels(loot.build(), images, labels, settings=loot.settings, seed=loot.seed)


def train_on_labels(
    student: nn.Module, images: Tensor, labels: Tensor, *, settings: TrainSettings, seed: int
) -> tuple[nn.Module, bool]:
    """Train a student with cross-entropy, and return it and whether the loss stayed finite."""
    result = train(
        student,
        images,
        lambda logits, rows, _: functional.cross_entropy(logits, labels[rows]),
        settings=settings,
        seed=seed,
        pure=True,
    )
    return student, result.finite


def _stolen(loot: Loot, student: nn.Module, *, finite: bool, more_queries: int = 0) -> Stolen:
    return Stolen(student, loot.oracle.charged() + more_queries, finite)


THIEVES: Mapping[str, Thief] = {
    "label_only": _attack("label_only"),
    "label_only_plain": _attack("label_only", plain=True),
    "soft_label": _attack("soft_label"),
    "rank_and_label": _attack("rank_and_label"),
    "rank_distillation": _attack("rank_distillation"),
    "consistent": _attack("consistent"),
    "semi_supervised": _semi_supervised,
    "label_votes": _attack("label_votes"),
    "augmentation_union": _attack("augmentation_union"),
    "collusion": _collusion,
    "second_student": _second_student,
    "fine_pruning": _fine_pruning,
    "doubt": _doubt,
}
"""The thieves by name."""
