"""Images with a number in a pixel, and answers that contain the numbers of their images."""

import numpy as np
import torch

from stingy_protection import ScoreForm, SparseLogits
from stingy_server.codec.images import Pixels


def numbered(*numbers: int) -> Pixels:
    images = np.zeros((len(numbers), 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = numbers
    return images


def first_pixels(images: Pixels) -> SparseLogits:
    indices = torch.from_numpy(images[:, 0, 0, :1].astype(np.int64))
    return SparseLogits(indices, indices.float(), num_classes=256, form=ScoreForm.LOGIT, decimals=0)


def caller_of(images: Pixels) -> str:
    """Return a caller of its own for each number, so that the share of one binds no test."""
    return str(images[0, 0, 0, 0])
