"""Keyed noise: near-copies share it, so they average little of it out. No policy draws it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from checks import assert_support_of_clean_logits
from policy_strategies import finite_logits, make_noise, normal_logits
from stingy_protection import (
    KeyedNoise,
    LogitsRejected,
    PolicyConfigError,
    PolicyViolation,
    RankedLabels,
    ScoreForm,
    Stingy,
    keyed_noise,
    sanitize,
)

torch.set_num_threads(1)
SECRET = b"sixteen bytes or"
PINNED = [-1.570, -1.420, -1.030]


def pictures(count: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 8, 8, 3), generator=generator, dtype=torch.uint8)


def different(noise: Tensor) -> Tensor:
    """Return the rows that differ from each other."""
    rows: Tensor = noise.unique(dim=0)  # type: ignore[no-untyped-call]
    return rows


def test_the_noise_is_standard_normal() -> None:
    noise = keyed_noise(SECRET, pictures(1000), 100)
    assert noise.shape == (1000, 100)
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
    assert noise == pytest.approx(PINNED, abs=1e-3)


def test_another_picture_secret_or_shape_gives_other_noise() -> None:
    image = pictures(1)
    first = keyed_noise(SECRET, image, 1000)[0]
    for other in (
        keyed_noise(SECRET, pictures(1, seed=1), 1000)[0],
        keyed_noise(SECRET[::-1], image, 1000)[0],
        keyed_noise(SECRET, image.view(1, 16, 4, 3), 1000)[0],
    ):
        assert abs(torch.corrcoef(torch.stack([first, other]))[0, 1]) < 0.15


@pytest.mark.parametrize("side", [8, 32, 100])
def test_N2_one_low_bit_anywhere_keeps_the_noise(side: int) -> None:
    """Change one low bit in each of 1,000 copies. Their noise takes two values at most."""
    generator = torch.Generator().manual_seed(side)
    image = torch.randint(0, 256, (side, side, 3), generator=generator, dtype=torch.uint8)
    copies = image.expand(1000, -1, -1, -1).clone()
    for number, place in enumerate(torch.randint(0, image.numel(), (1000,), generator=generator)):
        copies[number].view(-1)[place] ^= 1
    assert len(different(keyed_noise(SECRET, copies, 10))) <= 2


def test_N2_near_copies_average_little_noise_out() -> None:
    """Average 200 copies with noise of 2 grey levels, for each of 20 smooth pictures."""
    generator = torch.Generator().manual_seed(0)
    errors, averages = [], []
    for image in pictures(20).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2):
        moved = torch.randint(-2, 3, (200, 32, 32, 3), generator=generator)
        copies = (image + moved).clamp(0, 255).to(torch.uint8)
        found = keyed_noise(SECRET, copies, 10)
        errors.append(found[0].abs().mean())
        averages.append(different(found).mean(dim=0).abs().mean())
    # Independent noise would leave a fourteenth.
    assert torch.stack(averages).mean() > 0.8 * torch.stack(errors).mean()


def test_N2_brightness_of_a_channel_keeps_the_noise() -> None:
    image = (pictures(1) // 2).expand(90, -1, -1, -1).clone()
    for number in range(90):
        image[number, :, :, number % 3] += number
    assert len(different(keyed_noise(SECRET, image, 10))) == 1


@settings(max_examples=60)
@given(logits=finite_logits(), sigma=st.sampled_from([1e-6, 1.0, 50.0, 1e30]))
def test_N1_noise_shows_no_class_beyond_the_clean_top_n(logits: Tensor, sigma: float) -> None:
    policy = KeyedNoise(num_classes=logits.shape[1], n=2, sigma=sigma)
    answer = sanitize(policy, logits, noise=make_noise(policy, logits))
    clean = sanitize(RankedLabels(num_classes=logits.shape[1], n=2), logits)
    assert torch.equal(answer.indices.sort(dim=1).values, clean.indices.sort(dim=1).values)


@pytest.mark.parametrize("form", [ScoreForm.LOGIT, ScoreForm.RANK, ScoreForm.NONE])
def test_N1_order_below_the_top1_is_that_of_the_noisy_scores(form: ScoreForm) -> None:
    logits, noise = normal_logits(200, 10), normal_logits(200, 10, seed=1)
    answer = sanitize(KeyedNoise(num_classes=10, n=5, scores=form), logits, noise=noise)
    disturbed = (logits + noise).gather(1, answer.indices)[:, 1:]
    assert (disturbed[:, :-1] >= disturbed[:, 1:] - 1e-3).all()


def test_N1_strong_noise_passes_the_check_of_the_support() -> None:
    assert_support_of_clean_logits(KeyedNoise(num_classes=10, n=3, sigma=5.0))


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


@settings(max_examples=60)
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
