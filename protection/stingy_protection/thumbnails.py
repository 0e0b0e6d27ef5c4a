"""Thumbnails of images. Invariant: integer sums, so equal pixels give equal thumbnails anywhere."""

import numpy as np
import numpy.typing as npt

SIDE = 8  # cells a side
STEPS = 16  # of a grey level


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
