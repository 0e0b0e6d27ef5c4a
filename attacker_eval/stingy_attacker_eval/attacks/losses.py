"""The losses attacks share; a withheld class (-inf) never makes one non-finite."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.training import LossFn

_NEVER = torch.finfo(torch.float32).min / 4


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
    log_probs = functional.log_softmax(student / tau, dim=1)
    distil = functional.kl_div(log_probs, target, reduction="batchmean") * tau**2
    if alpha == 1:
        return distil
    if labels is None:
        raise ValueError(f"expected labels at alpha {alpha}, got none")
    return alpha * distil + (1 - alpha) * functional.cross_entropy(student, labels)


def kd_loss_fn(
    teacher: Tensor, labels: Tensor | None = None, *, tau: float = 1.0, alpha: float = 1.0
) -> LossFn:
    """Return `kd_loss` as a loss for `train`, which takes the rows of each batch.

    teacher: logits `[n, classes]` of all images, -inf where withheld. labels: int64 `[n]`. By
    default it is the soft cross-entropy on the answered probabilities.
    """

    def loss(student: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        some_labels = None if labels is None else labels[rows]
        return kd_loss(student, teacher[rows], some_labels, tau=tau, alpha=alpha)

    return loss


def subset_kl(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """
    tau^2 * KL(softmax(teacher/tau) || softmax(student/tau)), both over the teacher's support.

    Shapes as in kd_loss. What was withheld neither costs anything nor is pushed anywhere: the
    student is renormalised over the classes that were answered.
    """
    withheld = teacher.isinf()
    # A finite stand-in: 0 * -inf would be NaN in the sum.
    inside = (student / tau).masked_fill(withheld, _NEVER)
    target = functional.softmax(teacher / tau, dim=1)
    return (
        functional.kl_div(functional.log_softmax(inside, dim=1), target, reduction="batchmean")
        * tau**2
    )


def plackett_luce(
    student: Tensor, order: Tensor, places: Tensor | None = None, *, n: int | None = None
) -> Tensor:
    """
    Minus the log-probability of the order under Plackett-Luce, mean over the batch.

    student: logits `[batch, classes]`. order: int64 `[batch, N]`, best first, without repeats;
    the classes left out lost to all of it, in no order. ListMLE for partial lists: "Listwise
    Approach to Learning to Rank" (Xia et al., ICML 2008), section 4.3. At N = 1 it is the
    cross-entropy.

    places: int64 `[batch, N]`, the first of the places that a class's tie takes; None where none
    tie. Tied classes share that place's normaliser: "Covariance Analysis of Censored Survival
    Data" (Breslow, Biometrics 1974), whose partial likelihood has the form of this one.
    n: how many places are read, None for all; a tie that reaches past them is not, for nothing
    tells which of its classes came among the first n.
    """
    if places is None:
        places = torch.arange(order.shape[1], device=order.device).repeat(len(order), 1)
    read = torch.searchsorted(places, places, right=True)[:, :n] <= (n or order.shape[1])
    order, places = order[:, :n], places[:, :n]
    chosen = student.gather(1, order)
    rest = student.scatter(1, order, _NEVER).logsumexp(dim=1, keepdim=True)
    # The normaliser of place i holds the classes of places i and later, and the rest.
    pools = torch.cat([chosen, rest], dim=1).flip(1).logcumsumexp(dim=1).flip(1)[:, :-1]
    return ((pools.gather(1, places) - chosen) * read).sum(dim=1).mean()


def fill_constant(teacher: Tensor, *, delta: float) -> Tensor:
    """The answers `[batch, classes]`, each withheld class at the row's smallest score - delta."""
    withheld = teacher.isinf()
    floor = teacher.masked_fill(withheld, torch.inf).amin(dim=1, keepdim=True)
    return torch.where(withheld, floor - delta, teacher)


def centred_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """
    The mean over rows of sum |s - t|, both less their row's mean; `[batch]`.

    teacher must be finite: fill what was withheld first. "Data-Free Model Extraction" (Truong et
    al., CVPR 2021), section 3.3 and 3.4 (logits from probabilities up to a constant).
    """
    gap = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    return gap.abs().sum(dim=1)


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """
    The mean over batch and classes of the standard deviation of two students' probabilities.

    Logits `[batch, classes]` both. "DisGUIDE" (Rosenthal et al., AAAI 2023), its disagreement
    loss for an ensemble of two, before the sign. As in the published code the deviation is the
    unbiased one, of two values |a - b| / sqrt(2).
    """
    gap = functional.softmax(first, dim=1) - functional.softmax(second, dim=1)
    return gap.abs().mean() / math.sqrt(2)


def disguide_generator_loss(first: Tensor, second: Tensor, *, balance: float) -> Tensor:
    """
    balance * class_balance of the two students' mean softmax - disagreement.

    Logits `[batch, classes]` both. "DisGUIDE" (Rosenthal et al., AAAI 2023), the generator's loss
    of the published code, whose weight is to be had with its means alone.
    """
    # The softmax of this is the mean of both.
    vote = torch.logaddexp(first.log_softmax(dim=1), second.log_softmax(dim=1))
    return balance * class_balance(vote) - disagreement(first, second)


def class_balance(logits: Tensor) -> Tensor:
    """
    sum_k p_k ln p_k of the batch's mean softmax p: lowest when every class is as frequent.

    logits `[batch, classes]`, -inf where withheld. "Data-Free Learning of Student Networks"
    (Chen et al., ICCV 2019), equation 5, in nats: the published code takes base 10.
    """
    mean = functional.softmax(logits, dim=1).mean(dim=0)
    # A class that no row allows has p = 0, where the gradient of p ln p is not finite.
    return (mean * mean.clamp_min(1e-8).log()).sum()


def dafl_generator_loss(
    teacher: Tensor, features: Tensor, *, one_hot: float, balance: float, activation: float
) -> Tensor:
    """
    one_hot * CE(teacher, argmax teacher) + balance * class_balance to base 10
    - activation * mean |features|.

    teacher: logits `[batch, classes]`, -inf where withheld; features: `[batch, d]`. "Data-Free
    Learning of Student Networks" (Chen et al., ICCV 2019), equations 3 to 6; base 10 is that of
    the published code, whose weights are to be had with it alone.
    """
    certain = functional.cross_entropy(teacher, teacher.argmax(dim=1))
    even = class_balance(teacher) / math.log(10)
    return one_hot * certain + balance * even - activation * features.abs().mean()


def consistency(weak: Tensor, strong: Tensor, *, threshold: float) -> Tensor:
    """
    CE(strong, argmax weak) over the rows whose weak softmax is at least `threshold`, mean over all.

    Student logits `[batch, classes]` of two views of the same images; weak gets no gradient.
    "FixMatch" (Sohn et al., NeurIPS 2020), equation 4.
    """
    confidence, pseudo_labels = functional.softmax(weak.detach(), dim=1).max(dim=1)
    losses = functional.cross_entropy(strong, pseudo_labels, reduction="none")
    return (losses * (confidence >= threshold)).mean()
