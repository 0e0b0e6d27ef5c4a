"""Thumbnails of images. Invariant: integer sums, so equal pixels give equal thumbnails anywhere."""

import hashlib
import hmac
from functools import lru_cache

import numpy as np
import numpy.typing as npt

SIDE = 8  # cells a side
STEPS = 16  # of a grey level
CHUNK_BYTES = 2**22  # images whose thumbnails are made at once


def thumbnails(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Average every pixel of each image into 8x8 cells a channel.

    Args:
        images: [batch, height, width, 3].

    Returns:
        [batch, 8, 8, 3], in sixteenths of a grey level, rounded down. A side shorter than 8 pixels
        has some of its pixels in two cells.
    """
    batch, height, width, channels = images.shape
    tops, heights = _cells(height)
    lefts, widths = _cells(width)
    rows = images.reshape(batch, height, width * channels)
    bands = np.add.reduceat(rows, tops, axis=1, dtype=np.uint32)
    sums = np.add.reduceat(bands.reshape(batch, SIDE, width, channels), lefts, axis=2)
    cells = heights[:, None, None] * widths[:, None]
    averages: npt.NDArray[np.int64] = sums.astype(np.int64) * STEPS // cells
    return averages


def _cells(length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the start and the size of each cell along a side."""
    starts = np.arange(SIDE) * length // SIDE
    return starts, np.maximum(1, np.diff(starts, append=length))


def coarse_codes(
    secret: bytes, images: npt.NDArray[np.uint8], *, purpose: bytes, signs: int
) -> npt.NDArray[np.uint8]:
    """Compute a code of each image's coarse pixels, which most near-copies of it share.

    Its bits are the signs of secret projections of the thumbnail, after "Similarity estimation
    techniques from rounding algorithms" (Charikar, STOC 2002). A change that is small beside the
    image's contrast rarely moves a sign, and brightness moves none.

    Args:
        secret: the secret of the projections.
        images: [batch, height, width, 3], at least one.
        purpose: a label that separates this use of the secret from any other.
        signs: the number of projections, a multiple of 8.

    Returns:
        [batch, signs / 8], the packed signs.
    """
    planes = _secret_planes(secret, purpose, signs)
    step = max(1, CHUNK_BYTES // max(1, images[0].nbytes))
    parts = []
    for start in range(0, len(images), step):
        cells = thumbnails(images[start : start + step]).reshape(-1, len(planes))
        # Sums of integers below 2^53 are exact in float64, in any order and batch.
        parts.append(np.packbits(cells.astype(np.float64) @ planes > 0, axis=1))
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _secret_planes(secret: bytes, purpose: bytes, signs: int) -> npt.NDArray[np.float64]:
    """Make the planes, [cells, signs]: for each channel, one half is 1, the other -1."""
    cells = SIDE * SIDE
    stream = hashlib.shake_256(hmac.digest(secret, purpose, "sha256"))
    draws = np.frombuffer(stream.digest(8 * cells * 3 * signs), np.uint64)
    ranks = draws.reshape(cells, 3 * signs).argsort(axis=0, kind="stable").argsort(axis=0)
    return np.where(ranks < cells // 2, 1.0, -1.0).reshape(cells * 3, signs)
