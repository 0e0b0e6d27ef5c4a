"""Noise that cannot be averaged out. Invariant: equal secret and pixels give equal noise."""

import hashlib
import hmac
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stingy_protection.errors import PolicyConfigError
from stingy_protection.policies.base import NoisyPolicy, Proposal, top1_first

SECRET_BYTES = 16
# A label that separates this use of the secret from any other use.
_PURPOSE = b"stingy keyed noise 1"


@dataclass(frozen=True, kw_only=True)
class KeyedNoise(NoisyPolicy):
    """The N largest of the logits plus noise, the true top-1 first. An image's noise is fixed.

    Args:
        n: N, 1..num_classes.
        sigma: the standard deviation of the noise, in units of logits, above 0.
    """

    name: ClassVar[str] = "keyed_noise"
    n: int
    sigma: float = 1.0

    @property
    def support(self) -> int:
        return self.n

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not 0 < self.sigma < math.inf:
            yield f"expected a finite sigma above 0, got {self.sigma!r}"

    def propose_with(self, logits: Tensor, noise: Tensor) -> Proposal:
        largest = torch.finfo(logits.dtype).max
        disturbed = (logits + self.sigma * noise).clamp(-largest, largest)
        return top1_first(disturbed, logits, self.n)


def keyed_noise(secret: bytes, images: Tensor, num_classes: int) -> Tensor:
    """Compute standard normal noise that depends only on each image's pixels and the secret.

    SHAKE-256 stretches each image's HMAC-SHA256 to one uniform number per class. The inverse of
    the normal distribution turns these into noise. No random generator is used, because its
    stream may change with a library's version.

    Args:
        secret: at least 16 bytes, the same in every worker and after every restart.
        images: decoded RGB images, uint8 `[batch, H, W, 3]`.
        num_classes: K, the number of the model's classes.

    Returns:
        float32 `[batch, classes]`, on the CPU.

    Raises:
        PolicyConfigError: if the secret is too short, or the images are not such a tensor.
    """
    if len(secret) < SECRET_BYTES:
        raise PolicyConfigError((f"expected a secret of {SECRET_BYTES} bytes or more, got fewer",))
    if images.dtype is not torch.uint8 or images.dim() != 4 or images.shape[3] != 3:
        got = f"{images.dtype} {list(images.shape)}"
        raise PolicyConfigError((f"expected images uint8 [batch, H, W, 3], got {got}",))
    height, width = images.shape[1:3]
    header = _PURPOSE + height.to_bytes(4) + width.to_bytes(4)
    stretched = bytearray()
    for image in images.cpu().contiguous().numpy():
        digest = hmac.digest(secret, header + image.tobytes(), "sha256")
        stretched += hashlib.shake_256(digest).digest(8 * num_classes)
    if not stretched:
        return torch.empty(0, num_classes)
    # 52 bits and a half step exclude 0 and 1, because their normal quantiles are infinite.
    bits = torch.frombuffer(stretched, dtype=torch.int64) & ((1 << 52) - 1)
    uniform = (bits.double() + 0.5) / (1 << 52)
    noise: Tensor = torch.special.ndtri(uniform)
    return noise.float().view(len(images), num_classes)
