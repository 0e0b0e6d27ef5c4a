"""The training-time defence. Invariant: only the nasty teacher receives gradients."""

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor


def nasty_loss(
    logits: Tensor, labels: Tensor, normal_logits: Tensor, *, omega: float, tau: float
) -> Tensor:
    """Compute the nasty teacher's training loss, averaged over the batch.

    The loss is CE(t, y) - omega tau^2 KL(softmax(t / tau) || softmax(normal / tau)).

    Source: Ma et al., "Undistillable: Making a Nasty Teacher That Cannot Teach Students",
    ICLR 2021, section 3.2.

    Args:
        logits: t, the nasty teacher's logits, floating `[batch, classes]`.
        labels: y, int64 `[batch]`.
        normal_logits: the frozen normal teacher's logits, `[batch, classes]`. Detached here.
        omega: the weight of the divergence, > 0.
        tau: the temperature, > 0.

    Raises:
        ValueError: if the shapes differ, or omega or tau is not above 0.
    """
    if logits.shape != normal_logits.shape:
        raise ValueError(
            f"expected normal_logits {list(logits.shape)}, got {list(normal_logits.shape)}"
        )
    if omega <= 0 or tau <= 0:
        raise ValueError(f"expected omega > 0 and tau > 0, got {omega} and {tau}")
    nasty = F.log_softmax(logits / tau, dim=1)
    normal = F.log_softmax(normal_logits.detach() / tau, dim=1)
    divergence = F.kl_div(normal, nasty, reduction="batchmean", log_target=True)
    return F.cross_entropy(logits, labels) - omega * tau**2 * divergence
