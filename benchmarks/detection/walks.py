"""Walks along one image's boundaries, and the endpoint in this process that they query.

All queries go through the policy and the gate. The attacks use answers and their own images alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from stingy_attacker_eval.attacks.recovery.walks import walk_image
from stingy_attacker_eval.oracle.oracle import Answers
from stingy_protection import Policy, sanitize

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
OwnImages = Callable[[int, int], Images]  # the attacker's images of a class, by class and number
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

    def query(
        self, images: npt.NDArray[np.generic]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Answer images [batch, height, width, 3], rounded to grey levels."""
        pixels = np.clip(np.rint(images), 0, 255).astype(np.uint8)
        self.queries.append(pixels)
        answer = sanitize(self.policy, self.logits(pixels))
        scores = torch.empty(0) if answer.scores is None else answer.scores
        return answer.indices.numpy(), scores.numpy()


def boundary_walk(
    endpoint: LocalEndpoint,
    image: Images,
    own: OwnImages,
    *,
    starts: int,
    steps: int,
    rounds: int = 0,
) -> Floats:
    """Rank the withheld classes of an image as the audit's attack `boundary_walk` does.

    The attacker bought the answers to its own images before. They are not among the queries.

    Args:
        image: [height, width, 3].
        starts: blends for each withheld class.
        steps: queries for each blend.
        rounds: queries for each withheld class after the blends.

    Returns:
        [classes], larger for better ranks; infinite for the classes of the image's own answer.
    """
    classes = endpoint.policy.num_classes
    images = np.concatenate([image[None], *(own(label, starts) for label in range(classes))])
    bought, _ = LocalEndpoint(endpoint.network, endpoint.policy).query(images)
    shown, _ = endpoint.query(image[None])
    walk = walk_image(
        0,
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(np.concatenate([shown, bought[1:]])),
        lambda moved: _query(endpoint, moved),
        num_classes=classes,
        starts=starts,
        steps=steps,
        rounds=rounds,
        generator=torch.Generator().manual_seed(0),
    )
    closeness = walk.closeness.double().numpy()
    found = np.full(classes, closeness.min() - 1)  # a class that no own image shows comes last
    found[shown[0]] = np.inf
    found[walk.classes.numpy()] = closeness
    return found


def _query(endpoint: LocalEndpoint, images: torch.Tensor) -> Answers:
    indices, scores = endpoint.query(images.permute(0, 2, 3, 1).numpy())
    return Answers(indices, scores, endpoint.policy.num_classes, endpoint.policy.scores)


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
