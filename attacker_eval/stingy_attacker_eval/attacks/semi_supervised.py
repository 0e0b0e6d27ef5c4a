"""Few answers bought, everything else learnt from images without one."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.base import Attack, AttackContext, Capability, check_positive
from stingy_attacker_eval.attacks.losses import consistency, kd_loss
from stingy_attacker_eval.training import TrainResult, augmented, normalise


@dataclass(frozen=True, kw_only=True)
class SemiSupervised(Attack):
    """Buys answers for `queries` of its images and asks the student to agree with itself on all.

    A strong view is the image with noise and a square cut out; what the student is sure of
    (`threshold`) on the image as the protocol moves and mirrors it is its label for the strong
    one. Bought images are moved and mirrored alike, and are the same in every run, so that an
    audit buys them once.

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

    def __post_init__(self) -> None:
        check_positive(queries=self.queries, weight=self.weight)
        if not 0 < self.threshold <= 1:
            raise ValueError(f"expected a threshold in 0..1, got {self.threshold}")

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
            some = torch.randint(count, (size,), generator=generator, device=context.device)
            # One pass for both: batch statistics then are those of all images.
            moved = augmented(purchased[some], context.settings, generator)
            both = student(torch.cat([normalise(moved), strong_view(inputs, generator)]))
            labelled, strong = both.float().split([size, len(rows)])
            supervised = kd_loss(labelled, targets[some], None, tau=1.0, alpha=1.0)
            return supervised + self.weight * consistency(weak, strong, threshold=self.threshold)

        return context.train(student, images, loss)


def strong_view(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Images in -1..1 `[n, 3, H, W]` with noise, and a square of a third of the side cut out."""
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
