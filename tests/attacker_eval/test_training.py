"""The training loop: the same seed gives the same numbers, and a non-finite loss is flagged."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from audit_fakes import CLASSES, striped
from stingy_attacker_eval import training
from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.students import STUDENTS, cnn, student_spec
from stingy_attacker_eval.training import (
    TrainResult,
    TrainSettings,
    normalise,
    percent_equal,
    predict,
    to_device,
    train,
)

PIXELS, CLASS_OF = striped(96)
IMAGES = to_device(PIXELS, torch.device("cpu"))
LABELS = torch.from_numpy(CLASS_OF)
SETTINGS = TrainSettings(epochs=2, batch=32, lr=0.05, augment=1)


def fit(seed: int) -> tuple[TrainResult, dict[str, Tensor]]:
    def loss(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        return functional.cross_entropy(logits, LABELS[rows])

    torch.manual_seed(seed)
    model = cnn(num_classes=CLASSES, width=4)
    torch.rand(seed + 5)  # earlier random draws must not matter
    return train(model, IMAGES, loss, settings=SETTINGS, seed=seed), model.state_dict()


def test_E4_same_seed_gives_the_same_numbers() -> None:
    (one, weights), (two, repeated), (other, _) = fit(3), fit(3), fit(4)
    assert one.last_loss == two.last_loss != other.last_loss
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)


@pytest.mark.parametrize(
    ("pixels", "is_training", "kind"),
    [
        (16, True, torch.bfloat16),
        (16, False, torch.float32),  # as the server computes
        (8, True, torch.float32),
    ],
)
def test_large_images_train_in_bfloat16_on_a_cpu_that_has_it(
    monkeypatch: pytest.MonkeyPatch, pixels: int, is_training: bool, kind: torch.dtype
) -> None:
    monkeypatch.setattr(training, "trains_in_bfloat16", lambda _: True)
    kinds = []
    network = cnn(num_classes=3, width=4).train(is_training)
    network.features[0].register_forward_hook(lambda _, __, maps: kinds.append(maps.dtype))
    assert training.forward(network, torch.zeros(2, 3, pixels, pixels)).dtype == torch.float32
    assert kinds == [kind]


def test_grouped_convolutions_train_in_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "trains_in_bfloat16", lambda _: True)
    kinds = []
    network = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network[0].register_forward_hook(lambda _, __, maps: kinds.append(maps.dtype))
    training.forward(network.train(), torch.zeros(2, 3, 16, 16))
    assert kinds == [torch.float32]


def test_cpu_without_bfloat16_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    kinds = []
    network = cnn(num_classes=3, width=4).train()
    network.features[0].register_forward_hook(lambda _, __, maps: kinds.append(maps.dtype))
    training.forward(network, torch.zeros(2, 3, 16, 16))
    assert kinds == [torch.float32]


def test_training_reaches_a_high_accuracy() -> None:
    torch.manual_seed(0)
    model = cnn(num_classes=CLASSES, width=4)
    settings = TrainSettings(epochs=6, batch=16, lr=0.05)
    train(
        model,
        IMAGES,
        lambda logits, rows, _: functional.cross_entropy(logits, LABELS[rows]),
        settings=settings,
        seed=0,
    )
    assert percent_equal(predict(model, IMAGES).numpy(), CLASS_OF) > 90


def test_non_finite_loss_stops_after_its_epoch_and_is_flagged() -> None:
    steps = 0

    def loss(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return logits.sum() * float("nan")

    result = train(cnn(num_classes=3, width=4), IMAGES, loss, settings=SETTINGS, seed=0)
    assert not result.finite
    assert steps == 96 // 32  # one epoch of two


def test_shifts_move_whole_images_within_the_setting() -> None:
    # One bright pixel an image, in row i and column i: it stays within one pixel of its place.
    images = np.zeros((6, 8, 8, 3), np.uint8)
    for i in range(6):
        images[i, i + 1, i + 1] = 255
    observed = []

    def loss(logits: Tensor, rows: Tensor, inputs: Tensor) -> Tensor:
        for row, image in zip(rows.tolist(), inputs, strict=True):
            place = (image[0] == 1).nonzero()
            assert len(place) == 1
            observed.append((place[0] - row - 1).tolist())
        return logits.sum()

    settings = TrainSettings(epochs=20, batch=6, lr=1e-6, augment=1)
    train(
        cnn(num_classes=3, width=4),
        to_device(images, torch.device("cpu")),
        loss,
        settings=settings,
        seed=0,
    )
    assert {tuple(step) for step in observed} == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}


def test_flip_mirrors_about_half_of_the_images_only() -> None:
    # Column 2 of 8 is bright: mirrored it is column 5, and rows stay.
    images = np.zeros((64, 8, 8, 3), np.uint8)
    images[:, 3, 2] = 255
    columns = []

    def loss(logits: Tensor, _: Tensor, inputs: Tensor) -> Tensor:
        for image in inputs:
            ((row, column),) = (image[0] == 1).nonzero().tolist()
            assert row == 3
            columns.append(column)
        return logits.sum()

    train(
        cnn(num_classes=3, width=4),
        to_device(images, torch.device("cpu")),
        loss,
        settings=TrainSettings(epochs=4, batch=64, lr=1e-6, flip=True),
        seed=0,
    )
    assert set(columns) == {2, 5}
    assert 90 < columns.count(5) < 166  # 256 tosses: five standard deviations either way


def weight_path(settings: TrainSettings) -> list[float]:
    """Return the values, step by step, of a weight whose gradient is always 1."""
    observed: list[float] = []

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            observed.append(float(self.weight.detach()))
            return self.weight.expand(len(images), 1)

    train(
        Line(),
        IMAGES,
        lambda logits, rows, _: logits.mean(),
        settings=settings,
        seed=0,
    )
    return observed


def test_milestones_match_the_published_schedule_by_hand() -> None:
    # By hand: v <- 0.9 v + 1, w <- w - lr v; the rate falls to a fifth after the first epoch.
    settings = TrainSettings(
        epochs=2, batch=48, lr=0.1, weight_decay=0.0, milestones=(1,), gamma=0.2
    )
    expected, weight, speed = [], 0.0, 0.0
    for step in range(4):
        expected.append(weight)
        speed = 0.9 * speed + 1
        weight -= (0.1 if step < 2 else 0.02) * speed
    assert weight_path(settings) == pytest.approx(expected)


def epoch_order(seed: int) -> list[int]:
    """Return the row numbers of one epoch in the order of training."""
    observed: list[int] = []

    def loss(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        observed.extend(rows.tolist())
        return logits.sum()

    settings = TrainSettings(epochs=1, batch=40, lr=1e-6)
    train(cnn(num_classes=3, width=4), IMAGES, loss, settings=settings, seed=seed)
    return observed


def test_every_image_is_used_once_an_epoch_but_the_ragged_rest() -> None:
    assert len(epoch_order(0)) == len(set(epoch_order(0))) == 80


def test_seed_decides_the_order() -> None:
    assert epoch_order(0) == epoch_order(0) != epoch_order(1)


def test_normalise_scales_pixels_to_minus_one_to_one() -> None:
    found = normalise(torch.tensor([0, 255], dtype=torch.uint8))
    assert found.tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("name", [name for name in STUDENTS if name.startswith("cnn_")])
@pytest.mark.parametrize("size", [8, 13, 32])
def test_students_take_images_from_8_to_32_pixels(name: str, size: int) -> None:
    model = student_spec(name).build(7)
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_unknown_student_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EvalError, match="cnn_large, cnn_small, cnn_tiny"):
        student_spec("resnet")


def test_percent_equal_weighs_every_entry_the_same() -> None:
    assert percent_equal(np.array([1, 2, 3]), np.array([1, 2, 0])) == pytest.approx(200 / 3)


@pytest.mark.parametrize("count", [5, 40, 64, 150])
def test_epoch_of_sets_the_number_of_steps(count: int) -> None:
    images = IMAGES.repeat(4, 1, 1, 1)[:count]
    batches: list[Tensor] = []

    def loss(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        batches.append(rows)
        return functional.cross_entropy(logits, rows % 3)

    settings = TrainSettings(epochs=3, batch=20, lr=0.01)
    train(cnn(num_classes=3, width=4), images, loss, settings=settings, seed=0, epoch_size=64)
    assert len(batches) == 3 * (64 // 20)
    assert {len(rows) for rows in batches} == {min(20, count)}
    assert torch.cat(batches).max() < count
