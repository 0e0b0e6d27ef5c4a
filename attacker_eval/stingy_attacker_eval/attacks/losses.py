"""The losses attacks share; a withheld class (-inf) never makes one non-finite."""

from torch import Tensor
from torch.nn import functional


def kd_loss(
    student: Tensor, teacher: Tensor, labels: Tensor | None, *, tau: float, alpha: float
) -> Tensor:
    """
    alpha * tau^2 * KL(softmax(teacher/tau) || softmax(student/tau)) + (1 - alpha) * CE(labels).

    student: finite logits `[batch, classes]`. teacher: logits `[batch, classes]`, -inf where
    withheld, at least one finite entry a row. labels: int64 `[batch]`, None only at alpha 1.
    "Sparse Logits Suffice to Fail Knowledge Distillation" (Ma et al., 2022), its KD loss; the
    entropy of the target, a constant for the student, is included. Raises ValueError without
    labels below alpha 1.
    """
    # kl_div takes 0 * log 0 as 0, so a withheld class costs nothing itself; it is pushed
    # down through the student's normaliser alone.
    target = functional.softmax(teacher / tau, dim=1)
    guess = functional.log_softmax(student / tau, dim=1)
    distil = functional.kl_div(guess, target, reduction="batchmean") * tau**2
    if alpha == 1:
        return distil
    if labels is None:
        raise ValueError(f"expected labels at alpha {alpha}, got none")
    return alpha * distil + (1 - alpha) * functional.cross_entropy(student, labels)
