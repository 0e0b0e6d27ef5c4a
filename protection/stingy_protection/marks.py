"""The choice of marked inputs. Invariant: it depends on the secret, the model and the input alone.

So all keys whose answers are marked get the same answer for the same input, from every process and
after every restart. Near-copies of an image mostly share its choice, so that their answers do not
show which of them is marked.
"""

import hmac
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stingy_protection.coarse_pixels import coarse_codes

# More signs than those of `keyed_noise`: with 16, one code stands for so many different images that
# the share of marked answers is far from the share of marked codes.
SIGNS = 48
_PLANES = b"stingy marks planes"


@dataclass(frozen=True)
class Choice:
    """The choice for one input. Most inputs are neither marked nor controls.

    Attributes:
        marked: whether its answer is marked.
        control: whether it is a control.
        place: k, 1..m: the k-th class after the best is the mark, or would be.
    """

    marked: bool
    control: bool
    place: int

    @property
    def kept(self) -> bool:
        """True if the input is kept as evidence."""
        return self.marked or self.control


class Chooser:
    """The choice for each input of the models.

    Args:
        secret: the secret of the marks.
        share: the share of codes that is marked, 0..0.5. As many others are controls.
        runners_up: m, the number of classes after the best among which a mark is chosen.
    """

    def __init__(self, secret: bytes, *, share: float, runners_up: int) -> None:
        self._secret = secret
        self._limit = round(share * 2**64)
        self._control_limit = round(share / (1 - share) * 2**64)
        self._runners_up = runners_up

    def codes(self, images: npt.NDArray[np.uint8]) -> list[bytes]:
        """Return the code of each image's coarse pixels and of its size.

        Args:
            images: [batch, height, width, 3], at least one.
        """
        height, width = images.shape[1:3]
        size = height.to_bytes(4) + width.to_bytes(4)
        found = coarse_codes(self._secret, images, purpose=_PLANES, signs=SIGNS)
        return [size + code.tobytes() for code in found]

    def choose(self, model: str, code: bytes, *, num_classes: int) -> Choice:
        """Return the choice for an input. It takes as long for every input.

        Args:
            model: the name of the model, whose versions share their choices.
            code: as `codes` returns it.
            num_classes: K, the number of the model's classes, at least 2.
        """
        name = model.encode()
        numbers = [self._number(label, name, code) for label in ("mark", "control", "place")]
        marked = numbers[0] < self._limit
        control = not marked and numbers[1] < self._control_limit
        return Choice(marked, control, 1 + numbers[2] % self.most(num_classes))

    def most(self, num_classes: int) -> int:
        """Return m for a model with K classes, of which the best is none."""
        return min(self._runners_up, num_classes - 1)

    def _number(self, label: str, model: bytes, code: bytes) -> int:
        """Return a number that is uniform in 0..2^64 - 1 over secrets."""
        return int.from_bytes(mark_digest(self._secret, label, model, code)[:8])


def mark_digest(secret: bytes, label: str, *parts: bytes) -> bytes:
    """Return the HMAC-SHA256 of a label and parts under the secret of the marks, 32 bytes.

    Args:
        label: separates this use of the secret from any other.
        parts: their lengths are part of the message, so that no two lists give one message.
    """
    message = b"stingy marks " + label.encode() + b"\0"
    for part in parts:
        message += len(part).to_bytes(4) + part
    return hmac.digest(secret, message, "sha256")
