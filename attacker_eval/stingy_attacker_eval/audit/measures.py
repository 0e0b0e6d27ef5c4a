"""The second measures of a student: agreement by class, KL to the teacher, transfer of examples."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.audit.purchase import PurchasedData
from stingy_attacker_eval.oracle.oracle import dense_logits, scores_unsupported_reason

_EVERYTHING = "open"
_EPSILON, _STEP, _STEPS = 8, 2, 10  # grey levels of 255, and steps: Madry et al. 2018, section 5
_BATCH = 256


def class_agreement(
    predictions: NDArray[np.int64],
    teacher: NDArray[np.int64],
    labels: NDArray[np.int64],
    num_classes: int,
) -> tuple[float | None, ...]:
    """Return, for each true class, the percentage of its images on which two top-1 agree.

    predictions, teacher, labels: `[n]`.

    None stands for a class without images.
    """
    images = np.bincount(labels, minlength=num_classes)
    hits = np.bincount(labels, weights=predictions == teacher, minlength=num_classes)
    return tuple(
        round(100 * float(hit) / int(count), 3) if count else None
        for hit, count in zip(hits, images, strict=True)
    )


def teacher_log_probs(
    purchase: PurchasedData,
    purchases: Sequence[PurchasedData],
    network: nn.Module | None,
    test_images: Tensor,
) -> Tensor | None:
    """Return the teacher's log-probabilities for the test images, float32 `[n, classes]`.

    They are those of the network itself if the audit has it. Else they are those that an endpoint
    with the policy `open` answered, this one or another that gave the same labels for every image
    of the audit. Answers of other policies are not the teacher's probabilities.

    None if the audit has neither.
    """
    device = test_images.device
    if network is not None:
        return functional.log_softmax(compute_logits(network.to(device), test_images), dim=1)
    for source in (purchase, *purchases):
        is_same = all(
            np.array_equal(own.top1, other.top1)
            for own, other in (
                (purchase.transfer, source.transfer),
                (purchase.evaluation, source.evaluation),
            )
        )
        has_scores = scores_unsupported_reason(source.info.scores) is None
        if source.info.policy == _EVERYTHING and has_scores and is_same:
            return functional.log_softmax(dense_logits(source.evaluation, device), dim=1)
    return None


def mean_kl(student: nn.Module, images: Tensor, log_probs: Tensor) -> float | None:
    """Return the mean KL divergence, in nats, of the student from the teacher; None if not finite.

    images: uint8 `[n, 3, H, W]`.
    log_probs: of the teacher, `[n, classes]`.
    """
    own = functional.log_softmax(compute_logits(student, images), dim=1)
    found = float(functional.kl_div(own, log_probs, reduction="batchmean", log_target=True))
    return found if math.isfinite(found) else None


def adversarial_examples(
    student: nn.Module, images: Tensor, labels: Tensor, *, seed: int
) -> NDArray[np.uint8]:
    """Change images by at most 8 grey levels so that the student no longer gives the labels.

    Ten steps of two levels from a random start, up the gradient's sign: "Towards Deep Learning
    Models Resistant to Adversarial Attacks" (Madry et al., ICLR 2018), section 2.

    images: uint8 `[n, 3, H, W]`.
    labels: int64 `[n]`.

    Returns uint8 `[n, H, W, 3]`.
    """
    student.eval()
    generator = torch.Generator(images.device).manual_seed(seed)
    parts = []
    for part, wanted in zip(torch.split(images, _BATCH), torch.split(labels, _BATCH), strict=True):
        clean = part.float()
        low, high = (clean - _EPSILON).clamp(min=0), (clean + _EPSILON).clamp(max=255)
        noise = torch.rand(clean.shape, generator=generator, device=clean.device)
        pixels = (clean + _EPSILON * (2 * noise - 1)).clamp(low, high)
        for _ in range(_STEPS):
            pixels.requires_grad_()
            # In float32, because bfloat16 would lose small gradients.
            loss = functional.cross_entropy(student(pixels / 127.5 - 1.0), wanted)
            (gradient,) = torch.autograd.grad(loss, pixels)
            pixels = (pixels.detach() + _STEP * gradient.sign()).clamp(low, high)
        parts.append(pixels.round().byte())
    found: NDArray[np.uint8] = torch.cat(parts).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return found
