"""Semi-supervised extraction: a few bought answers and many images without answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, AttackContext, Capability, positive_faults
from stingy_attacker_eval.attacks.losses import consistency, kd_loss
from stingy_attacker_eval.training import TrainResult, augment, normalise


@dataclass(frozen=True, kw_only=True)
class SemiSupervised(Attack):
    """FixMatch as an attack: soft cross-entropy on bought answers and consistency on all images.

    The attacker buys answers for `queries` of its own images. On all its images the student
    predicts a weak view, which the protocol's `augment` and `flip` make. If the largest
    probability is at least `threshold`, that class is the label of a strong view: the same image
    with noise and a square cut out. Bought images get the same augmentation. They are the same in
    every run, so an audit buys them once.

    The attacker needs its own images and queries during the run. It needs no true labels.

    queries: images to buy answers for.
    weight: weight of the consistency loss.
    threshold: smallest probability of a pseudo-label, in 0..1.

    References:
        "FixMatch" (Sohn et al., NeurIPS 2020), section 2; as an attack, "High Accuracy and High
        Fidelity Extraction of Neural Networks" (Jagielski et al., USENIX Security 2020), section
        4.
    """

    name: ClassVar[str] = "semi_supervised"
    title: ClassVar[str] = "a few answers, and many images without"
    reference: ClassVar[str] = "Sohn et al. 2020, FixMatch; Jagielski et al. 2020, section 4"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.IMAGES, Capability.QUERIES})

    queries: int = 200
    weight: float = 1.0
    threshold: float = 0.8

    def faults(self) -> Iterator[str]:
        yield from positive_faults(queries=self.queries, weight=self.weight)
        if not 0 < self.threshold <= 1:
            yield f"expected a threshold in 0..1, got {self.threshold}"

    def budget(self, images: int) -> int:
        return min(self.queries, images)

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        images, generator = context.images, context.generator()
        count = self.budget(len(images))
        order = torch.randperm(
            len(images), generator=context.generator(seed=0), device=context.device
        )
        purchased = images[order[:count]]
        targets = context.targets(context.session.query(purchased))

        def loss(weak: Tensor, rows: Tensor, inputs: Tensor) -> Tensor:
            size = min(len(rows), count)
            drawn = torch.randint(count, (size,), generator=generator, device=context.device)
            # One pass for both, so the batch statistics are those of all images.
            pixels = augment(purchased[drawn], context.settings, generator)
            both = student(torch.cat([normalise(pixels), make_strong_view(inputs, generator)]))
            labelled, strong = both.float().split([size, len(rows)])
            supervised = kd_loss(labelled, targets[drawn], None, tau=1.0, alpha=1.0)
            return supervised + self.weight * consistency(weak, strong, threshold=self.threshold)

        return context.train(student, images, loss)


def make_strong_view(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise to images in -1..1 `[n, 3, H, W]` and cut out a square of a third of the side."""
    count, _, height, width = inputs.shape
    device = inputs.device
    noisy = inputs + 0.2 * torch.randn(inputs.shape, generator=generator, device=device)
    corner = torch.rand((2, count, 1), generator=generator, device=device)
    side = max(1, min(height, width) // 3)
    top = (corner[0] * (height - side + 1)).floor()
    left = (corner[1] * (width - side + 1)).floor()
    down, right = torch.arange(height, device=device), torch.arange(width, device=device)
    rows = (down >= top) & (down < top + side)
    columns = (right >= left) & (right < left + side)
    hidden = rows[:, None, :, None] & columns[:, None, None, :]
    return functional.hardtanh(noisy).masked_fill(hidden, 0.0)
