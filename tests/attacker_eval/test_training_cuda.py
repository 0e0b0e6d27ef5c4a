"""Recorded training passes on CUDA: they train as passes without a recording do."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from audit_fakes import CLASSES, striped
from stingy_attacker_eval import recorded_pass
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import (
    LossFn,
    TrainResult,
    TrainSettings,
    predict,
    to_device,
    train,
)

pytestmark = pytest.mark.cuda
SETTINGS = TrainSettings(epochs=4, batch=32, lr=0.05, augment=1, flip=True)
PIXELS, CLASS_OF = striped(256)


def fit(
    *, pure: bool, labels: Tensor, images: Tensor, loss: LossFn | None = None, dropout: float = 0.0
) -> tuple[TrainResult, nn.Module]:
    torch.manual_seed(3)
    network = student_spec("cnn_small").build(CLASSES)
    model = nn.Sequential(network, nn.Dropout(dropout)).to(images.device)

    def cross_entropy(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels[rows])

    result = train(model, images, loss or cross_entropy, settings=SETTINGS, seed=1, pure=pure)
    return result, model


@pytest.fixture(name="images")
def made_images() -> Tensor:
    return to_device(PIXELS, torch.device("cuda"))


@pytest.fixture(name="labels")
def made_labels() -> Tensor:
    return torch.from_numpy(CLASS_OF).cuda()


def test_a_recorded_pass_trains_as_one_without_recording(images: Tensor, labels: Tensor) -> None:
    one, plain = fit(pure=False, labels=labels, images=images)
    two, recorded = fit(pure=True, labels=labels, images=images)
    assert one.last_loss == pytest.approx(two.last_loss, rel=0.02)
    for name, weights in plain.state_dict().items():
        found = recorded.state_dict()[name]
        assert torch.allclose(weights.float(), found.float(), atol=0.02), name
    assert torch.equal(predict(plain, images), predict(recorded, images))


def test_a_recorded_pass_launches_the_loss_once(images: Tensor, labels: Tensor) -> None:
    calls = []

    def loss(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        calls.append(len(rows))
        return functional.cross_entropy(logits, labels[rows])

    fit(pure=True, labels=labels, images=images, loss=loss)
    assert len(calls) == recorded_pass.WARM_UPS + 1


def test_dropout_differs_from_step_to_step(images: Tensor, labels: Tensor) -> None:
    losses = torch.zeros(1, device="cuda")

    def loss(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        value = functional.cross_entropy(logits, labels[rows])
        losses.add_((logits == 0).sum())  # each step of the recording adds its zeros
        return value

    result, _ = fit(pure=True, labels=labels, images=images, loss=loss, dropout=0.5)
    steps = SETTINGS.epochs * len(images) // SETTINGS.batch
    assert result.finite
    share = float(losses) / (steps * SETTINGS.batch * CLASSES)
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_loss_that_waits_trains_without_recording(
    images: Tensor, labels: Tensor, dropout: float
) -> None:
    values = []

    def loss(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        value = functional.cross_entropy(logits, labels[rows])
        values.append(value.item())
        return value

    result, model = fit(pure=True, labels=labels, images=images, loss=loss, dropout=dropout)
    assert result.finite
    assert len(values) == SETTINGS.epochs * len(images) // SETTINGS.batch
    assert (predict(model, images).numpy() == CLASS_OF).mean() > 0.5


def test_a_loss_with_its_own_generator_trains(images: Tensor, labels: Tensor) -> None:
    generator = torch.Generator("cuda").manual_seed(0)

    def loss(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        noise = torch.rand(logits.shape, generator=generator, device="cuda")
        return functional.cross_entropy(logits + 0.1 * noise, labels[rows])

    result, _ = fit(pure=True, labels=labels, images=images, loss=loss)
    assert result.finite
    assert torch.rand(1, generator=generator, device="cuda").isfinite().all()
