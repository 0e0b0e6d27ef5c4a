"""Keyed noise: it depends on the pixels, so it cannot be averaged out. No policy draws it."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from policy_strategies import finite_logits, make_noise, normal_logits
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


def test_equal_pixels_have_equal_noise_in_any_batch() -> None:
    images = pictures(5)
    whole = keyed_noise(SECRET, images, 10)
    assert torch.equal(keyed_noise(SECRET, images.flip(0), 10), whole.flip(0))
    for place in range(5):
        assert torch.equal(keyed_noise(SECRET, images[place : place + 1], 10)[0], whole[place])


def test_the_noise_is_the_same_in_every_release() -> None:
    image = torch.arange(12, dtype=torch.uint8).view(1, 2, 2, 3)
    noise = keyed_noise(SECRET, image, 3)[0].tolist()
    assert noise == pytest.approx(PINNED, abs=1e-6)


def test_another_pixel_secret_or_shape_gives_other_noise() -> None:
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


def test_bad_images_and_short_secrets_are_refused_unshown() -> None:
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
    answer = sanitize(policy, logits, noise=make_noise(policy, logits))
    assert torch.equal(answer.indices[:, 0], torch.from_numpy(logits.numpy().argmax(axis=1)))
    assert answer.scores is not None
    assert torch.equal(answer.scores[:, 0], answer.scores.amax(dim=1))


def test_repeated_queries_average_no_noise_out() -> None:
    images, logits = pictures(4), normal_logits(4, 10)
    policy = KeyedNoise(num_classes=10, n=10)
    answers = [
        sanitize(policy, logits, noise=keyed_noise(SECRET, images, 10)).scores for _ in range(3)
    ]
    assert all(torch.equal(answers[0], other) for other in answers if other is not None)  # type: ignore[arg-type]


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
def test_a_noisy_policy_is_refused_without_noise(noise: Tensor | None) -> None:
    with pytest.raises(LogitsRejected, match="noise"):
        sanitize(KeyedNoise(num_classes=10, n=2), normal_logits(2, 10), noise=noise)
    with pytest.raises(PolicyViolation, match="noise"):
        KeyedNoise(num_classes=10, n=2).propose(normal_logits(2, 10))


def test_a_policy_without_noise_is_refused_with_noise() -> None:
    with pytest.raises(LogitsRejected, match="no noise for the policy stingy"):
        sanitize(Stingy(num_classes=10, n=2), normal_logits(2, 10), noise=torch.zeros(2, 10))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("inf"), float("nan")])
def test_a_sigma_that_is_not_positive_and_finite_is_a_fault(sigma: float) -> None:
    with pytest.raises(PolicyConfigError, match="sigma"):
        KeyedNoise(num_classes=10, n=2, sigma=sigma)
