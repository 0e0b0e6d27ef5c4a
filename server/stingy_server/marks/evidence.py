"""The evidence of a mark: an input, the answer that a key got, and its encryption.

A row that was changed, or that stands under another id, cannot be opened.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import orjson

from stingy_server.codec.images import Pixels
from stingy_server.marks.secret import MarkSecret

NONCE_BYTES = 12
HEAD_BYTES = 1024  # the head is padded to a multiple, so that its length shows little


class EvidenceUnreadable(Exception):
    """Evidence that was changed, or encrypted under another secret or for another row."""


@dataclass(frozen=True)
class Answered:
    """A marked input or a control, without its pixels.

    Attributes:
        marked: whether the answer was marked; otherwise it is a control.
        key: the id of the key.
        model: the name of the model.
        version: the version of the model.
        request: the id of the request.
        time: the time of the answer, in UTC.
        coarse: the keyed digest of the coarse pixels, in hex, the same for all keys.
        top1: the model's own best class.
        runners_up: the next m classes of the model, best first.
        mark: the runner-up that the secret chose.
        answer: the classes of the answer, best first.
        scores: their scores, or None.
    """

    marked: bool
    key: str
    model: str
    version: str
    request: str
    time: str
    coarse: str
    top1: int
    runners_up: tuple[int, ...]
    mark: int
    answer: tuple[int, ...]
    scores: tuple[float, ...] | None

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Answered":
        scores = fields["scores"]
        return cls(
            **fields
            | {
                "runners_up": tuple(fields["runners_up"]),
                "answer": tuple(fields["answer"]),
                "scores": None if scores is None else tuple(scores),
            }
        )


@dataclass(frozen=True, eq=False)
class Evidence:
    """A marked input or a control.

    Attributes:
        answered: the answer and its circumstances.
        pixels: [height, width, 3], as the model got them.
    """

    answered: Answered
    pixels: Pixels = field(repr=False)


class Sealer:
    """The encryption of evidence by AES-256-GCM, with the row's id as associated data.

    Args:
        secret: the secret of the marks.
        random: returns so many random bytes.
    """

    def __init__(self, secret: MarkSecret, *, random: Callable[[int], bytes]) -> None:
        # Imported here because cryptography is an optional dependency, and `forget` needs none.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(secret.derive("evidence"))
        self._random = random

    def seal(self, row: bytes, evidence: Evidence) -> bytes:
        """Encrypt evidence for the row with this id."""
        pixels = np.ascontiguousarray(evidence.pixels)
        head = orjson.dumps({**asdict(evidence.answered), "shape": pixels.shape})
        padded = head.ljust(-(-len(head) // HEAD_BYTES) * HEAD_BYTES)
        nonce = self._random(NONCE_BYTES)
        plain = len(padded).to_bytes(4) + padded + pixels.tobytes()
        return nonce + self._cipher.encrypt(nonce, plain, row)

    def open(self, row: bytes, sealed: bytes) -> Evidence:
        """Decrypt the evidence of the row with this id.

        Raises:
            EvidenceUnreadable: it was changed, or sealed for another row or under another secret.
        """
        from cryptography.exceptions import InvalidTag

        try:
            plain = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], row)
        except (InvalidTag, ValueError):  # ValueError: too short for a nonce
            raise EvidenceUnreadable(
                "expected evidence as it was kept, got a row that was changed, or another secret"
            ) from None
        start = 4 + int.from_bytes(plain[:4])
        fields = orjson.loads(plain[4:start])
        pixels = np.frombuffer(plain, np.uint8, offset=start).reshape(fields.pop("shape"))
        return Evidence(Answered.of(fields), pixels)
