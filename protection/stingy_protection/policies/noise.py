"""Noise that most near-copies of an image share. Equal secret and pixels give equal noise."""

import hashlib
import hmac
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stingy_protection.coarse_pixels import coarse_codes
from stingy_protection.errors import PolicyConfigError
from stingy_protection.policies.base import NoisyPolicy, Proposal, best_first

SECRET_BYTES = 16
SIGNS = 16  # of projections of a thumbnail; they key the noise
# Labels that separate these uses of the secret from each other and from any other use.
_PURPOSE = b"stingy keyed noise 2"
_PLANES_PURPOSE = b"stingy keyed noise planes"


@dataclass(frozen=True, kw_only=True)
class KeyedNoise(NoisyPolicy):
    """The N largest logits, with noise on each. Near-copies of an image mostly share its noise.

    The N classes are chosen before the noise, so the noise shows no other class. It moves the
    scores of these classes and their order below the top-1.

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
        values, indices = best_first(logits, self.n)
        largest = torch.finfo(logits.dtype).max
        disturbed = (values + self.sigma * noise.gather(1, indices)).clamp(-largest, largest)
        head = disturbed.amax(dim=1, keepdim=True)  # the top-1 is raised to the largest
        rising = indices[:, 1:].sort(dim=1)  # two sorts, so that ties go to the lower index
        scores = disturbed[:, 1:].gather(1, rising.indices)
        falling = scores.sort(dim=1, descending=True, stable=True)
        others = rising.values.gather(1, falling.indices)
        return Proposal(
            torch.cat([indices[:, :1], others], 1), torch.cat([head, falling.values], 1)
        )


def keyed_noise(secret: bytes, images: Tensor, num_classes: int) -> Tensor:
    """Compute standard normal noise that depends on each image's coarse thumbnail and the secret.

    The noise is keyed by the image's code of 16 signs; see `coarse_codes`. SHAKE-256 stretches the
    HMAC-SHA256 of the signs to one uniform number per class. The inverse of the normal
    distribution turns these into noise. No random generator is used, because its stream may change
    with a library's version.

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
    if not len(images):
        return torch.empty(0, num_classes)
    height, width = images.shape[1:3]
    header = _PURPOSE + height.to_bytes(4) + width.to_bytes(4)
    stretched = bytearray()
    codes = coarse_codes(secret, images.cpu().numpy(), purpose=_PLANES_PURPOSE, signs=SIGNS)
    for code in codes:
        digest = hmac.digest(secret, header + code.tobytes(), "sha256")
        stretched += hashlib.shake_256(digest).digest(8 * num_classes)
    # 52 bits and a half step exclude 0 and 1, because their normal quantiles are infinite.
    bits = torch.frombuffer(stretched, dtype=torch.int64) & ((1 << 52) - 1)
    uniform = (bits.double() + 0.5) / (1 << 52)
    noise: Tensor = torch.special.ndtri(uniform)
    return noise.float().view(len(images), num_classes)
