"""Decoding of a JPEG, a PNG or an array to RGB pixels, uint8 [height, width, 3].

The decoder checks size and format in the file's header before it decodes anything. The work that a
file may cause is bounded. The same pixels give the same array in every form of file.
"""

import asyncio
import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from stingy_protection import Preprocessing
from stingy_server.errors import (
    BAD_IMAGE,
    IMAGE_TOO_LARGE,
    UNSUPPORTED_IMAGE,
    ServiceError,
)

Pixels = npt.NDArray[np.uint8]

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
FORMATS = ("JPEG", "PNG")
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
# The exceptions that Pillow raises for broken files, by its documentation and its decoders.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError)

# A few bytes can make a decoder work for minutes. Each scan of a JPEG visits every pixel, and each
# chunk or segment takes one turn of a Python loop. Cameras and browsers write about 10 scans.
MAX_SCANS = 64
HEADER_READS = 600  # a chunk or segment takes three or four
MAX_READS = 50_000  # enough for 40 MB of PNG in the smallest chunks that encoders write
# Pillow inflates comments and profiles up to a thousand times, and nothing here reads them. Without
# their handlers it skips them, as it skips every chunk type that it does not know.
for _kind in ("iCCP", "iTXt", "zTXt"):
    delattr(PngImagePlugin.PngStream, f"chunk_{_kind}")

# An image of one row, scaled until that row is as high as the model's input, would take gigabytes.
MAX_SCALED = 64  # a scaled image may have this many times the pixels of the model's input

# Images of up to this size take less time to decode than to hand to a thread.
INLINE_PIXELS = INLINE_BYTES = 256 * 256
_decoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode")


async def decode(
    files: Sequence[bytes], preprocessing: Preprocessing, *, max_pixels: int
) -> Pixels:
    """Decode image files to the pixels that the model takes, [batch, height, width, 3].

    Args:
        files: the bytes of one JPEG or PNG each.
        preprocessing: gives the size of the model's input.
        max_pixels: the limit for all files together, so that a request's work is bounded.

    Raises:
        ServiceError: if a file's content is no JPEG or PNG, has too many pixels, or is unreadable.
    """
    loop = asyncio.get_running_loop()
    decoded = []
    inline = INLINE_PIXELS  # for all files together, because many small ones block the loop too
    for data in files:
        if len(data) > INLINE_BYTES:
            image = await loop.run_in_executor(_decoders, _open, data, max_pixels)
        else:
            image = _open(data, max_pixels)
        pixels = image.width * image.height
        max_pixels -= pixels
        inline -= max(pixels, len(data))
        if inline >= 0:
            decoded.append(_decode(image, preprocessing))
        else:
            decoded.append(await loop.run_in_executor(_decoders, _decode, image, preprocessing))
    return np.stack(decoded)


async def fit(images: Pixels, preprocessing: Preprocessing) -> Pixels:
    """Resize a batch of pixels, [batch, height, width, 3], to the size that the model takes."""
    if images.shape[1:3] == preprocessing.size and preprocessing.resize_shorter is None:
        return images
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_decoders, _resize_batch, images, preprocessing)


class _BoundedFile(io.BytesIO):
    """A file with a limited number of reads. A decoder's Python loops read at every turn."""

    reads = HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise OSError("expected a file of fewer chunks or scans, got more")
        return super().read(size)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data.startswith(SIGNATURES):
        raise ServiceError(UNSUPPORTED_IMAGE)
    # In the coded data of a JPEG, FF DA marks the start of a scan and nothing else.
    if data.startswith(SIGNATURES[0]) and data.count(b"\xff\xda") > MAX_SCANS:
        raise ServiceError(BAD_IMAGE)
    file = _BoundedFile(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the limit on pixels is checked below
            image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise ServiceError(IMAGE_TOO_LARGE) from None
    except DECODE_ERRORS:  # UnidentifiedImageError is an OSError
        raise ServiceError(BAD_IMAGE) from None
    if image.width * image.height > max_pixels:
        raise ServiceError(IMAGE_TOO_LARGE)
    # Pillow would clip deeper grey images to 8 bits, which silently changes the picture.
    if image.mode not in MODES or image.width * image.height == 0:
        raise ServiceError(BAD_IMAGE)
    file.reads = MAX_READS
    return image


def _decode(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    try:
        rgb = image.convert("RGB")
    except DECODE_ERRORS:
        raise ServiceError(BAD_IMAGE) from None
    return _resize(rgb, preprocessing)


def _resize_batch(images: Pixels, preprocessing: Preprocessing) -> Pixels:
    return np.stack([_resize(Image.fromarray(image), preprocessing) for image in images])


def _resize(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    height, width = preprocessing.size
    shorter = preprocessing.resize_shorter
    if shorter is not None:
        scale = shorter / min(image.width, image.height)
        scaled = (
            max(width, round(image.width * scale)),
            max(height, round(image.height * scale)),
        )
        if scaled[0] * scaled[1] > MAX_SCALED * width * height:
            raise ServiceError(IMAGE_TOO_LARGE)
        image = _resize_bilinear(image, scaled)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(_resize_bilinear(image, (width, height)))


def _resize_bilinear(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
