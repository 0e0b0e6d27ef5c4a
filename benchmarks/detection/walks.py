"""Attacks that walk along one image's boundaries, and the endpoint in this process that they query.

All queries go through the policy and the gate. The attacks use answers and their own images alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from stingy_protection import Policy, sanitize

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
OwnImages = Callable[[int, int], Images]  # the attacker's images of a class, by class and number
Answers = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
BRACKET = 0.35  # of the way to a goal within which a score moves by one


@dataclass
class LocalEndpoint:
    """A network behind a policy. It records every image that it answers.

    Attributes:
        queries: the batches of images, in order.
    """

    network: nn.Module
    policy: Policy
    queries: list[Images] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of images answered."""
        return sum(len(images) for images in self.queries)

    @torch.inference_mode()
    def logits(self, images: Images) -> torch.Tensor:
        """Compute the logits, [batch, classes]. An attacker cannot call this."""
        found: torch.Tensor = self.network(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
        return found

    def query(self, images: Floats) -> Answers:
        """Answer images [batch, height, width, 3], rounded to grey levels."""
        pixels = np.clip(np.rint(images), 0, 255).astype(np.uint8)
        self.queries.append(pixels)
        answer = sanitize(self.policy, self.logits(pixels))
        scores = torch.empty(0) if answer.scores is None else answer.scores
        return answer.indices.numpy(), scores.numpy()


@dataclass(frozen=True)
class _Blends:
    """The blends of an image with `starts` images of each withheld class, at their boundaries."""

    hidden: npt.NDArray[np.int64]  # the withheld classes
    goals: Floats  # [hidden * starts, height, width, 3], class by class
    weights: Floats  # [hidden * starts]


def _bisect_blends(
    endpoint: LocalEndpoint, image: Images, own: OwnImages, *, starts: int, steps: int
) -> _Blends:
    target = image.astype(np.float64)
    shown, _ = endpoint.query(target[None])
    hidden = np.setdiff1d(np.arange(endpoint.policy.num_classes), shown[0])
    goals = np.concatenate([own(int(label), starts) for label in hidden]).astype(np.float64)
    classes = np.repeat(hidden, starts)
    low, high = np.zeros(len(goals)), np.ones(len(goals))
    for _ in range(steps):
        weight = (low + high) / 2
        indices, _ = endpoint.query(target + _each(weight) * (goals - target))
        inside = (indices == classes[:, None]).any(axis=1)
        high, low = np.where(inside, weight, high), np.where(inside, low, weight)
    return _Blends(hidden, goals, high)


def blend_walk(
    endpoint: LocalEndpoint, image: Images, own: OwnImages, *, starts: int, steps: int
) -> Floats:
    """Rank the withheld classes of an image by how soon blends towards their images show them.

    A bisection finds the smallest weight at which a class enters the answer.

    Args:
        image: [height, width, 3].
        starts: blends for each withheld class.
        steps: queries for each blend.

    Returns:
        [classes], larger for better ranks; infinite for the classes of the image's own answer.
    """
    blends = _bisect_blends(endpoint, image, own, starts=starts, steps=steps)
    found = np.full(endpoint.policy.num_classes, np.inf)
    found[blends.hidden] = -blends.weights.reshape(-1, starts).mean(axis=1)
    return found


def boundary_walk(
    endpoint: LocalEndpoint,
    image: Images,
    own: OwnImages,
    *,
    starts: int,
    steps: int,
    rounds: int,
) -> Floats:
    """Rank the withheld classes by the distance to the nearest image whose answer shows them.

    The attacker starts at the nearest blend of each class and walks along the boundary in grey
    pixels, after "Decision-Based Adversarial Attacks" (Brendel et al., ICLR 2018). A move is a
    random step across and a step towards the image. It is kept if the answer still shows the class.

    Args:
        rounds: queries for each withheld class after the blends.

    Returns:
        as `blend_walk`.
    """
    random, target = np.random.default_rng(0), image.astype(np.float64)
    blends = _bisect_blends(endpoint, image, own, starts=starts, steps=steps)
    count = len(blends.hidden)
    offsets = _each(blends.weights) * (blends.goals - target)
    nearest = _lengths(offsets).reshape(count, starts).argmin(axis=1) + np.arange(count) * starts
    place, across, towards = offsets[nearest], np.full(count, 0.3), np.full(count, 0.1)
    for _ in range(rounds):
        length = _lengths(place)
        step = np.repeat(random.standard_normal(place.shape[:3])[..., None], 3, axis=3)
        moved = place + step * _each(across * length / _lengths(step))
        moved *= _each((1 - towards) * length / _lengths(moved))
        moved = np.clip(np.rint(target + moved), 0, 255) - target
        indices, _ = endpoint.query(target + moved)
        kept = (indices == blends.hidden[:, None]).any(axis=1) & (_lengths(moved) < length)
        place = np.where(_each(kept), moved, place)
        across = np.clip(across * np.where(kept, 1.1, 0.96), 0.02, 1.0)
        towards = np.clip(towards * np.where(kept, 1.2, 0.93), 0.005, 0.3)
    found = np.full(endpoint.policy.num_classes, np.inf)
    found[blends.hidden] = -_lengths(place)
    return found


def grid_walk(
    endpoint: LocalEndpoint, image: Images, own: OwnImages, *, goals: int, steps: int
) -> tuple[float, float]:
    """Estimate the second score of an image more finely than a grid of whole numbers.

    The attacker walks towards its nearest images of the second class. Bisections find where the
    rounded score moves by one, two and three. There the score is half-way between two grid values.
    A parabola through the three points gives the score of the image itself.

    Args:
        image: [height, width, 3].
        goals: images to walk to.
        steps: queries for each point.

    Returns:
        the answered score, and the estimate: the median over the goals.
    """
    target = image.astype(np.float64)
    indices, scores = endpoint.query(target[None])
    answered = float(scores[0, 1])
    offsets = own(int(indices[0, 1]), 10**6) - target
    offsets = offsets[_lengths(offsets).argsort()[:goals]]
    crossings, low, sign = [], np.zeros(goals), np.zeros(goals)
    found = np.ones(goals, bool)
    for half_steps in (0.5, 1.5, 2.5):
        end = high = np.minimum(1, low + BRACKET)
        for _ in range(steps):
            weight = (low + high) / 2
            moved = endpoint.query(target + _each(weight) * offsets)[1][:, 1] - answered
            outside = np.abs(moved) > half_steps
            sign = np.where(outside & (sign == 0), np.sign(moved), sign)
            high, low = np.where(outside, weight, high), np.where(outside, low, weight)
        found &= (high < end) & (high > (crossings[-1] if crossings else 0))
        crossings.append(high)
        low = high
    points = np.stack(crossings, axis=1)[found]
    if not len(points):
        return answered, answered
    starts = np.array([np.polyfit(row, [0.5, 1.5, 2.5], 2)[-1] for row in points])
    estimate = np.clip(starts * sign[found], -0.5, 0.5)
    return answered, answered + float(np.median(estimate))


def _each(values: npt.NDArray[np.generic]) -> Floats:
    """Return one value for each image, [batch, 1, 1, 1]."""
    return np.asarray(values)[:, None, None, None]


def _lengths(offsets: Floats) -> Floats:
    """Return the length of each offset, [batch], in grey levels of one channel."""
    lengths: Floats = np.sqrt((offsets[..., 0] ** 2).sum(axis=(1, 2)))
    return lengths


def rank_correlation(estimate: Floats, truth: Floats, *, withheld: bool) -> float:
    """Return Spearman's correlation of an estimate with the logits.

    Args:
        withheld: over the withheld classes alone; else over all, where the answer's are known.
    """
    shown = np.isinf(estimate)
    if withheld:
        estimate, truth = estimate[~shown], truth[~shown]
    else:
        estimate = np.where(shown, estimate[~shown].max() + 1 + truth - truth.min(), estimate)
    ranks = [values.argsort().argsort() for values in (estimate, truth)]
    return float(np.corrcoef(*ranks)[0, 1])
