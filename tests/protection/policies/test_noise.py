"""Noise that belongs to the pixels: nothing averages it away, and no policy draws it itself."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from policy_strategies import finite_logits, noise_for, normal_logits
from stingy_protection import (
    KeyedNoise,
    LogitsRejected,
    PolicyConfigError,
    PolicyViolation,
    ScoreForm,
    Stingy,
    keyed_noise,
    sanitize,
)

torch.set_num_threads(1)
SECRET = b"sixteen bytes or"
PINNED = [1.188691, 1.815645, -0.007539]


def pictures(count: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 8, 8, 3), generator=generator, dtype=torch.uint8)


def test_the_noise_is_standard_normal() -> None:
    noise = keyed_noise(SECRET, pictures(200), 100)
    assert noise.shape == (200, 100)
    assert noise.dtype is torch.float32
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    for quantile in (0.025, 0.16, 0.84, 0.975):
        expected = torch.special.ndtri(torch.tensor(quantile)).item()
        assert noise.quantile(quantile).item() == pytest.approx(expected, abs=0.05)


def test_the_same_pixels_have_the_same_noise_at_any_place_of_any_batch() -> None:
    images = pictures(5)
    together = keyed_noise(SECRET, images, 10)
    assert torch.equal(keyed_noise(SECRET, images.flip(0), 10), together.flip(0))
    for place in range(5):
        assert torch.equal(keyed_noise(SECRET, images[place : place + 1], 10)[0], together[place])


def test_the_noise_stays_what_it_was_in_earlier_releases() -> None:
    image = torch.arange(12, dtype=torch.uint8).view(1, 2, 2, 3)
    noise = keyed_noise(SECRET, image, 3)[0].tolist()
    assert noise == pytest.approx(PINNED, abs=1e-6)


def test_one_step_of_one_pixel_another_secret_or_another_shape_is_other_noise() -> None:
    image = pictures(1)
    changed = image.clone()
    changed[0, 3, 3, 1] ^= 1
    first = keyed_noise(SECRET, image, 1000)[0]
    for other in (
        keyed_noise(SECRET, changed, 1000)[0],
        keyed_noise(SECRET[::-1], image, 1000)[0],
        keyed_noise(SECRET, image.view(1, 16, 4, 3), 1000)[0],
    ):
        assert abs(torch.corrcoef(torch.stack([first, other]))[0, 1]) < 0.15


def test_what_is_no_image_and_a_short_secret_are_refused_without_showing_them() -> None:
    with pytest.raises(PolicyConfigError, match="16 bytes or more") as caught:
        keyed_noise(b"short", pictures(1), 10)
    assert "short" not in str(caught.value)
    for wrong in (pictures(1).float(), pictures(1)[0], pictures(1).permute(0, 3, 1, 2)):
        with pytest.raises(PolicyConfigError, match="uint8"):
            keyed_noise(SECRET, wrong, 10)


def test_scores_are_logits_plus_sigma_times_noise() -> None:
    logits = torch.tensor([[4.0, 1.0, 2.0]])
    noise = torch.tensor([[0.5, 1.5, -1.0]])
    policy = KeyedNoise(num_classes=3, n=3, sigma=2.0, scores=ScoreForm.LOGIT)
    answer = sanitize(policy, logits, noise=noise)
    assert answer.scores is not None
    assert (answer.indices.tolist(), answer.scores.tolist()) == ([[0, 1, 2]], [[5.0, 4.0, 0.0]])


@settings(deadline=None, max_examples=60)
@given(logits=finite_logits())
def test_the_top1_stays_first_under_any_noise(logits: Tensor) -> None:
    policy = KeyedNoise(num_classes=logits.shape[1], n=2, sigma=50.0)
    answer = sanitize(policy, logits, noise=noise_for(policy, logits))
    assert torch.equal(answer.indices[:, 0], torch.from_numpy(logits.numpy().argmax(axis=1)))
    assert answer.scores is not None
    assert torch.equal(answer.scores[:, 0], answer.scores.amax(dim=1))


def test_asking_again_averages_nothing_away() -> None:
    images, logits = pictures(4), normal_logits(4, 10)
    policy = KeyedNoise(num_classes=10, n=10)
    asked = [
        sanitize(policy, logits, noise=keyed_noise(SECRET, images, 10)).scores for _ in range(3)
    ]
    assert all(torch.equal(asked[0], again) for again in asked if again is not None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "noise",
    [
        None,
        torch.zeros(2, 9),
        torch.zeros(1, 10),
        torch.zeros(2, 10, dtype=torch.int64),
        torch.full((2, 10), torch.inf),
    ],
    ids=str,
)
def test_a_policy_that_needs_noise_is_refused_without(noise: Tensor | None) -> None:
    with pytest.raises(LogitsRejected, match="noise"):
        sanitize(KeyedNoise(num_classes=10, n=2), normal_logits(2, 10), noise=noise)
    with pytest.raises(PolicyViolation, match="noise"):
        KeyedNoise(num_classes=10, n=2).propose(normal_logits(2, 10))


def test_a_policy_that_takes_no_noise_is_refused_with_some() -> None:
    with pytest.raises(LogitsRejected, match="no noise for the policy stingy"):
        sanitize(Stingy(num_classes=10, n=2), normal_logits(2, 10), noise=torch.zeros(2, 10))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("inf"), float("nan")])
def test_a_sigma_that_is_no_deviation_is_a_fault(sigma: float) -> None:
    with pytest.raises(PolicyConfigError, match="sigma"):
        KeyedNoise(num_classes=10, n=2, sigma=sigma)
