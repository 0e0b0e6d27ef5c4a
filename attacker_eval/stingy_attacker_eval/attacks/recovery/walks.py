"""Walks along the boundaries around one image, by answers alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stingy_attacker_eval.oracle.oracle import Answers

Query = Callable[[Tensor], Answers]
"""A function that queries images uint8 `[n, 3, H, W]`."""


@dataclass(frozen=True, eq=False)
class Walk:
    """The outcome of the walks around one image.

    classes: the withheld classes that were walked to, int64 `[h]`.
    goals: rows of the own images that were blended in, int64 `[h, starts]`.
    weights: the smallest weights at which the class enters the answer, `[h, starts]`, in 0..1.
    closeness: larger for classes that are nearer, `[h]`.
    questions: images that were queried.
    """

    classes: Tensor
    goals: Tensor
    weights: Tensor
    closeness: Tensor
    questions: int


def walk_image(
    row: int,
    images: Tensor,
    indices: Tensor,
    query: Query,
    *,
    num_classes: int,
    starts: int,
    steps: int,
    rounds: int,
    generator: torch.Generator,
) -> Walk:
    """Walk from one image to every withheld class.

    A class for which the attacker has no image with that top-1 is left out. A class with fewer
    than `starts` images uses them several times.

    row: the image's row.
    images: own images, uint8 `[n, 3, H, W]`.
    indices: their answers, int64 `[n, N]`, best first.
    starts, steps, rounds: as in `boundary_walk`.
    """
    target = images[row].float()
    hidden = torch.ones(num_classes, dtype=torch.bool, device=images.device)
    hidden[indices[row]] = False
    found = [(k, (indices[:, 0] == k).nonzero()[:, 0]) for k in hidden.nonzero()[:, 0].tolist()]
    found = [(k, rows) for k, rows in found if len(rows)]
    classes = torch.tensor([k for k, _ in found], device=images.device, dtype=torch.int64)
    goals = torch.stack(
        [rows[torch.arange(starts, device=images.device) % len(rows)] for _, rows in found]
    )
    offsets = images[goals.flatten()].float() - target
    labels = classes.repeat_interleave(starts)
    weights = _bisect(target, offsets, labels, query, steps=steps)
    per_class = weights.view(-1, starts)
    questions = steps * len(offsets) + rounds * len(classes)
    if not rounds:
        return Walk(classes, goals, per_class, -per_class.mean(dim=1), questions)
    lengths = (weights[:, None, None, None] * offsets).flatten(1).norm(dim=1).view(-1, starts)
    nearest = lengths.argmin(dim=1) + starts * torch.arange(len(classes), device=images.device)
    places = (weights[:, None, None, None] * offsets)[nearest]
    places = _approach(target, places, classes, query, rounds=rounds, generator=generator)
    return Walk(classes, goals, per_class, -places.flatten(1).norm(dim=1), questions)


def estimate_scores(walk: Walk, answers: Tensor, logits: Tensor) -> Tensor:
    """Estimate the withheld scores of one image, `[classes]`; answered ones stay.

    The lead of a class over the lowest answered score is taken to be linear in the weight. It is 0
    at the boundary, and known at the goal, whose answer the attacker has.

    answers: the image's scores `[classes]`, -inf where withheld.
    logits: the answers of all own images, `[n, classes]`.
    """
    at_goals = logits[walk.goals]
    lowest = at_goals.masked_fill(at_goals.isinf(), torch.inf).amin(dim=2)
    classes = walk.classes[:, None, None].expand(-1, walk.goals.shape[1], 1)
    lead = at_goals.gather(2, classes)[:, :, 0] - lowest
    weights = walk.weights.clamp(1e-3, 1 - 1e-3)
    behind = (lead * weights / (1 - weights)).median(dim=1).values
    floor = answers.masked_fill(answers.isinf(), torch.inf).amin()
    estimate = torch.full_like(answers, float(floor - behind.max()))
    estimate[walk.classes] = floor - behind
    return torch.where(answers.isfinite(), answers, estimate)


def _bisect(target: Tensor, offsets: Tensor, labels: Tensor, query: Query, *, steps: int) -> Tensor:
    """Find the smallest weight, `[m]`, at which each blend's answer shows its class.

    offsets: from the target to each goal, `[m, 3, H, W]`.
    labels: int64 `[m]`.
    """
    low, high = torch.zeros(len(offsets), device=target.device), torch.ones_like(labels).float()
    for _ in range(steps):
        weight = (low + high) / 2
        inside = _shows(target + weight[:, None, None, None] * offsets, labels, query)
        high, low = torch.where(inside, weight, high), torch.where(inside, low, weight)
    return high


def _approach(
    target: Tensor,
    places: Tensor,
    labels: Tensor,
    query: Query,
    *,
    rounds: int,
    generator: torch.Generator,
) -> Tensor:
    """Walk along the boundaries towards the target, and return the offsets that were reached.

    A move is a random step across, equal in all channels, and a step towards the target. It is kept
    if the answer still shows the class.

    places: offsets whose images show the classes, `[h, 3, H, W]`.
    """
    across = torch.full((len(labels), 1, 1, 1), 0.3, device=target.device)
    towards = torch.full_like(across, 0.1)
    for _ in range(rounds):
        length = _lengths(places)
        shape = len(places), 1, *places.shape[2:]
        step = torch.randn(shape, generator=generator, device=target.device).expand_as(places)
        moved = places + step * (across * length / _lengths(step))
        moved = moved * ((1 - towards) * length / _lengths(moved))
        moved = (target + moved).round().clamp(0, 255) - target
        kept = _shows(target + moved, labels, query)[:, None, None, None]
        kept &= _lengths(moved) < length
        places = torch.where(kept, moved, places)
        across = (across * torch.where(kept, 1.1, 0.96)).clamp(0.02, 1.0)
        towards = (towards * torch.where(kept, 1.2, 0.93)).clamp(0.005, 0.3)
    return places


def _shows(images: Tensor, labels: Tensor, query: Query) -> Tensor:
    """Return whether the answer to each image, `[m, 3, H, W]` in 0..255, has its class."""
    answers = query(images.round().clamp(0, 255).byte())
    indices = torch.from_numpy(answers.indices).to(labels.device)
    return (indices == labels[:, None]).any(dim=1)


def _lengths(offsets: Tensor) -> Tensor:
    """Return each offset's length, `[m, 1, 1, 1]`."""
    lengths: Tensor = offsets.flatten(1).norm(dim=1)
    return lengths[:, None, None, None].clamp_min(1e-6)
