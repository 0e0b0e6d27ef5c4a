"""The images of a folder, read as the server reads them."""

import io
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stingy_attacker_eval.datasets.png_damage import SIGNATURE, check_png
from stingy_attacker_eval.errors import DatasetError
from stingy_clients.image_kinds import find_fault

MAX_PIXELS = 2**24  # the server's default


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image as RGB, uint8 `[H, W, 3]`.

    Raises DatasetError if the file is of a kind that the server refuses, is broken, or has more
    than 16,777,216 pixels.
    """
    from PIL import Image

    try:
        data = Path(path).read_bytes()
    except OSError:
        raise DatasetError(f"expected an image at {path}, got a file that cannot be read") from None
    fault = find_fault(data)
    if fault is not None:
        raise DatasetError(f"{path}: {fault}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the size is checked here
            image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(
                    f"{path}: expected at most {MAX_PIXELS:,} pixels, "
                    f"got {image.width} x {image.height}"
                )
            if data.startswith(SIGNATURE):
                check_png(data)
            return np.asarray(image.convert("RGB"))
    except DatasetError:
        raise
    # Pillow raises these, and its error for huge images, for broken files.
    except (
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        zlib.error,
    ):
        raise DatasetError(f"{path}: expected an image that decodes, got a broken one") from None
