"""Images with the answers bought for them; a paid answer is never lost or mixed with others."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.errors import AnswersError, TransferError
from stingy_attacker_eval.files import lock_folder
from stingy_attacker_eval.oracle.cached_oracle import CachedOracle
from stingy_attacker_eval.oracle.oracle import Answers, Oracle, join_answers
from stingy_clients import ClientError

_REQUEST = 64
"""The most images in one request, so that a failure loses few answers."""

Progress = Callable[[int], None]
"""A function that is called with the number of images that were answered since the last call."""


@dataclass(frozen=True)
class TransferSet:
    """The answers to some images, in their order.

    queries: images that were sent to the endpoint for the folder of the answers.
    charged: images that the endpoint counted for them, added up request by request. So a second
        key may continue after the first ran out.
    """

    answers: Answers
    queries: int
    charged: int


def digest_images(images: Images) -> str:
    """Return the SHA-256, hex, of shape and pixels."""
    content = np.ascontiguousarray(images)
    return hashlib.sha256(str(content.shape).encode() + content.tobytes()).hexdigest()


def buy(
    oracle: Oracle,
    images: Images,
    *,
    budget: int,
    folder: Path,
    progress: Progress | None = None,
) -> TransferSet:
    """Buy an answer for every image `[n, H, W, 3]` and keep it in the folder at once.

    A second call on the same folder buys the missing answers.

    budget: the most images this call may send.

    Raises TransferError, before an image is sent, if more images than the budget have no answer,
    or if the folder has answers of another model, version or policy. Raises it also if the endpoint
    fails; the answers bought so far are kept. Raises AuditError if another process uses the folder.
    """
    _check_images(images)
    with lock_folder(folder):
        cached = CachedOracle(oracle, folder=folder)
        missing = cached.count_missing(images)
        if missing > budget:
            raise TransferError(
                f"expected a budget of at least {missing} images, got {budget}: nothing was sent"
            )
        answers = buy_answers(cached, images, progress=progress)
        return TransferSet(answers, cached.queries, cached.reconcile_charges())


def buy_answers(
    cached: CachedOracle, images: Images, *, progress: Progress | None = None
) -> Answers:
    """Return the answers for images `[n, H, W, 3]`, and buy those that are missing.

    Raises TransferError if the endpoint fails, and BudgetExhausted if the oracle does. The answers
    bought so far are kept.
    """
    _check_images(images)
    size = min(_REQUEST, cached.describe().max_arrays(*images.shape[1:3]))
    parts = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        try:
            parts.append(cached.query(part))
        except (ClientError, AnswersError, TransferError) as error:
            text = _progress_text(cached, images)
            raise TransferError(f"{text}; the endpoint failed: {error}") from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_progress_text(cached, images)) from None
        if progress is not None:
            progress(len(part))
    return join_answers(parts)


def _check_images(images: Images) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise TransferError(
            f"expected images uint8 [n, H, W, 3], got {images.dtype} {list(images.shape)}"
        )


def _progress_text(cached: CachedOracle, images: Images) -> str:
    count = cached.count_answered(images)
    return f"{count} of {len(images)} images were bought and are kept, run again for the rest"
