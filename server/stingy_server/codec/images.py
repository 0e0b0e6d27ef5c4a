"""From bytes to pixels: a JPEG or PNG, or an array, becomes RGB uint8 [height, width, 3].

Size and format are read from the header and judged before anything is decoded, and how much work
a file may make is bounded. Whatever form the same pixels come in, the same array leaves.
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
# What Pillow raises over broken files, as its own documentation and decoders have it.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError)

# A few bytes can make a decoder work for minutes: each scan of a JPEG visits every pixel, each
# chunk or segment is a turn of a loop in Python. Cameras and browsers write some 10 scans.
MOST_SCANS = 64
HEADER_READS = 600  # three or four a chunk or segment
MOST_READS = 50_000  # 40 MB of PNG in the smallest chunks that encoders write
# Pillow inflates comments and profiles, a thousand times their size each, and nothing here reads
# them: without their handlers it passes over them, as over every chunk that it does not know.
for _kind in ("iCCP", "iTXt", "zTXt"):
    delattr(PngImagePlugin.PngStream, f"chunk_{_kind}")

# A picture of one row, scaled until that row is as high as the model's input, would take gigabytes.
MOST_STRETCHED = 64  # times the pixels of the model's input

# Images of up to this size take less time to decode than to hand to a thread.
INLINE_PIXELS = INLINE_BYTES = 256 * 256
_decoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode")


async def decode(
    files: Sequence[bytes], preprocessing: Preprocessing, *, max_pixels: int
) -> Pixels:
    """Encoded images as the pixels the model takes, [batch, height, width, 3].

    Args:
        max_pixels: of all of them together, so that a request's work is bounded.

    Raises:
        ServiceError: not a JPEG or PNG by its content, too many pixels, or unreadable.
    """
    loop = asyncio.get_running_loop()
    decoded = []
    inline = INLINE_PIXELS  # of all files together: many small ones hold up the loop as well
    for data in files:
        if len(data) > INLINE_BYTES:
            image = await loop.run_in_executor(_decoders, _opened, data, max_pixels)
        else:
            image = _opened(data, max_pixels)
        pixels = image.width * image.height
        max_pixels -= pixels
        inline -= max(pixels, len(data))
        if inline >= 0:
            decoded.append(_decoded(image, preprocessing))
        else:
            decoded.append(await loop.run_in_executor(_decoders, _decoded, image, preprocessing))
    return np.stack(decoded)


async def fit(images: Pixels, preprocessing: Preprocessing) -> Pixels:
    """A batch of any size, [batch, height, width, 3], brought to the size the model takes."""
    if images.shape[1:3] == preprocessing.size and preprocessing.resize_shorter is None:
        return images
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_decoders, _fitted, images, preprocessing)


class _Bounded(io.BytesIO):
    """A file that can be read so many times: what a decoder does in Python, it does with reads."""

    reads = HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise OSError("expected fewer pieces")
        return super().read(size)


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    if not data.startswith(SIGNATURES):
        raise ServiceError(UNSUPPORTED_IMAGE)
    # In the coded data of a JPEG, FF DA stands for nothing but the start of a scan.
    if data.startswith(SIGNATURES[0]) and data.count(b"\xff\xda") > MOST_SCANS:
        raise ServiceError(BAD_IMAGE)
    file = _Bounded(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit on pixels is checked below
            image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise ServiceError(IMAGE_TOO_LARGE) from None
    except BROKEN:  # UnidentifiedImageError is an OSError
        raise ServiceError(BAD_IMAGE) from None
    if image.width * image.height > max_pixels:
        raise ServiceError(IMAGE_TOO_LARGE)
    # Deeper grey images would be clipped to 8 bits, silently another picture.
    if image.mode not in MODES or image.width * image.height == 0:
        raise ServiceError(BAD_IMAGE)
    file.reads = MOST_READS
    return image


def _decoded(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    try:
        rgb = image.convert("RGB")
    except BROKEN:
        raise ServiceError(BAD_IMAGE) from None
    return _resized(rgb, preprocessing)


def _fitted(images: Pixels, preprocessing: Preprocessing) -> Pixels:
    return np.stack([_resized(Image.fromarray(image), preprocessing) for image in images])


def _resized(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    height, width = preprocessing.size
    shorter = preprocessing.resize_shorter
    if shorter is not None:
        scale = shorter / min(image.width, image.height)
        scaled = (
            max(width, round(image.width * scale)),
            max(height, round(image.height * scale)),
        )
        if scaled[0] * scaled[1] > MOST_STRETCHED * width * height:
            raise ServiceError(IMAGE_TOO_LARGE)
        image = _bilinear(image, scaled)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(_bilinear(image, (width, height)))


def _bilinear(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
