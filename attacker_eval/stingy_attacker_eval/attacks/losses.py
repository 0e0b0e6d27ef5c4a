"""The losses of the attacks. A withheld class (-inf) never makes a loss non-finite."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from stingy_attacker_eval.training import LossFn

_NEVER = torch.finfo(torch.float32).min / 4


def kd_loss(
    student: Tensor, teacher: Tensor, labels: Tensor | None, *, tau: float, alpha: float
) -> Tensor:
    """Compute the knowledge-distillation (KD) loss.

    alpha * tau^2 * KL(softmax(teacher/tau) || softmax(student/tau)) + (1 - alpha) * CE(labels)

    The KL term includes the entropy of the target, which is a constant for the student.

    student: finite logits `[batch, classes]`.
    teacher: logits `[batch, classes]`, -inf where withheld, at least one finite entry a row.
    labels: int64 `[batch]`, None only at alpha 1.

    "Sparse Logits Suffice to Fail Knowledge Distillation" (Ma et al., 2022), its KD loss.

    Raises ValueError if labels are None and alpha is below 1.
    """
    # kl_div takes 0 * log 0 as 0, so a withheld class has no term of its own. Its student logit
    # is pushed down only through the student's normaliser.
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
    """Return `kd_loss` as a loss for `train`, which passes the rows of each batch.

    The default is the soft cross-entropy on the answered probabilities.

    teacher: logits `[n, classes]` of all images, -inf where withheld.
    labels: int64 `[n]`.
    """

    def loss(student: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        batch_labels = None if labels is None else labels[rows]
        return kd_loss(student, teacher[rows], batch_labels, tau=tau, alpha=alpha)

    return loss


def subset_kl(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """Compute the KL divergence over the answered classes only.

    tau^2 * KL(softmax(teacher/tau) || softmax(student/tau)), both over the teacher's support

    The student is renormalised over the answered classes, so a withheld class has no loss and no
    gradient. Shapes as in `kd_loss`.
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
    student: Tensor,
    order: Tensor,
    places: Tensor | None = None,
    *,
    n: int | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Compute the negative log-likelihood of an order under Plackett-Luce, mean over the batch.

    At N = 1 this is the cross-entropy. Classes that are not in the order rank below all of it,
    without an order among themselves.

    student: logits `[batch, classes]`.
    order: int64 `[batch, N]`, best first, without repeats.
    places: int64 `[batch, N]`, the rank of each class; tied classes share the first of their
        ranks, and its normaliser. None if no classes tie.
    n: places to read, None for all. A tie that reaches past place n is not read, because the
        order does not say which of its classes are among the first n.
    lengths: int64 `[batch]`, the places to read of each row; None for all.

    ListMLE for partial lists: "Listwise Approach to Learning to Rank" (Xia et al., ICML 2008),
    section 4.3. Ties: "Covariance Analysis of Censored Survival Data" (Breslow, Biometrics 1974),
    whose partial likelihood has the same form.
    """
    if places is None:
        places = torch.arange(order.shape[1], device=order.device).repeat(len(order), 1)
    read = torch.searchsorted(places, places, right=True)[:, :n] <= (n or order.shape[1])
    if lengths is not None:
        read &= torch.arange(read.shape[1], device=order.device) < lengths[:, None]
    order, places = order[:, :n], places[:, :n]
    chosen = student.gather(1, order)
    rest = student.scatter(1, order, _NEVER).logsumexp(dim=1, keepdim=True)
    # The normaliser of place i sums over the classes at places i and later, and the rest.
    pools = torch.cat([chosen, rest], dim=1).flip(1).logcumsumexp(dim=1).flip(1)[:, :-1]
    return ((pools.gather(1, places) - chosen) * read).sum(dim=1).mean()


def fill_constant(teacher: Tensor, *, delta: float) -> Tensor:
    """Fill each withheld score of `[batch, classes]` with the row's lowest score - delta."""
    withheld = teacher.isinf()
    floor = teacher.masked_fill(withheld, torch.inf).amin(dim=1, keepdim=True)
    return torch.where(withheld, floor - delta, teacher)


def centred_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute mean |s - t| of each row, `[batch]`, after subtracting each row's mean from t.

    student, teacher: finite logits `[batch, classes]`; fill withheld scores first.

    "Data-Free Model Extraction" (Truong et al., CVPR 2021), sections 3.3 and 3.4: logits from
    probabilities, up to a constant.
    """
    return (student - (teacher - teacher.mean(1, keepdim=True))).abs().mean(dim=1)


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    """Compute the standard deviation of two students' probabilities, mean over batch and classes.

    As in the published code, the deviation is the unbiased one: |a - b| / sqrt(2) of two values.

    first, second: logits `[batch, classes]`.

    "DisGUIDE" (Rosenthal et al., AAAI 2023), its disagreement loss for an ensemble of two,
    without the negative sign.
    """
    gap = functional.softmax(first, dim=1) - functional.softmax(second, dim=1)
    return gap.abs().mean() / math.sqrt(2)


def disguide_generator_loss(first: Tensor, second: Tensor, *, balance: float) -> Tensor:
    """Compute balance * class_balance of the two students' mean softmax - disagreement.

    first, second: logits `[batch, classes]`.
    balance: weight of the class balance. The published weight fits only the published code's
        means, which this function takes.

    "DisGUIDE" (Rosenthal et al., AAAI 2023), the generator's loss of the published code.
    """
    # The softmax of this value is the mean of the two softmaxes.
    vote = torch.logaddexp(first.log_softmax(dim=1), second.log_softmax(dim=1))
    return balance * class_balance(vote) - disagreement(first, second)


def class_balance(logits: Tensor) -> Tensor:
    """Compute sum_k p_k ln p_k of the batch's mean softmax p, lowest if all classes are equal.

    logits: `[batch, classes]`, -inf where withheld.

    "Data-Free Learning of Student Networks" (Chen et al., ICCV 2019), equation 5, in nats. The
    published code takes base 10.
    """
    mean = functional.softmax(logits, dim=1).mean(dim=0)
    # A class that every row withholds has p = 0, where the gradient of p ln p is not finite.
    return (mean * mean.clamp_min(1e-8).log()).sum()


def dafl_generator_loss(
    teacher: Tensor, features: Tensor, *, one_hot: float, balance: float, activation: float
) -> Tensor:
    """Compute the loss of DAFL's generator.

    one_hot * CE(teacher, argmax teacher) + balance * class_balance to base 10
    - activation * mean |features|

    Base 10 is that of the published code. The published weights fit only this base.

    teacher: logits `[batch, classes]`, -inf where withheld.
    features: `[batch, d]`.

    "Data-Free Learning of Student Networks" (Chen et al., ICCV 2019), equations 3 to 6.
    """
    certain = functional.cross_entropy(teacher, teacher.argmax(dim=1))
    even = class_balance(teacher) / math.log(10)
    return one_hot * certain + balance * even - activation * features.abs().mean()


def consistency(weak: Tensor, strong: Tensor, *, threshold: float) -> Tensor:
    """Compute the consistency loss between two views of the same images.

    CE(strong, argmax weak), zero for rows whose largest weak softmax is below `threshold`, mean
    over all rows. The weak view gets no gradient.

    weak, strong: student logits `[batch, classes]`.

    "FixMatch" (Sohn et al., NeurIPS 2020), equation 4.
    """
    confidence, pseudo_labels = functional.softmax(weak.detach(), dim=1).max(dim=1)
    losses = functional.cross_entropy(strong, pseudo_labels, reduction="none")
    return (losses * (confidence >= threshold)).mean()
