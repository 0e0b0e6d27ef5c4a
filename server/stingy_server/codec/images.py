"""Decoding of a JPEG, a PNG, a WebP or an array to RGB pixels, uint8 [height, width, 3].

The decoder checks size and format in the file's header before it decodes anything. The work that a
file may cause is bounded. The same pixels give the same array in every form of file.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from stingy_protection import Preprocessing
from stingy_server.codec.decode_pool import DecodePool
from stingy_server.codec.image_files import decode_file, read_size
from stingy_server.codec.transforms import Size, fits_already, scaled_size, transform
from stingy_server.errors import (
    IMAGE_TOO_LARGE,
    PIXELS_TOO_MANY,
    SCALED_TOO_LARGE,
    ServiceError,
)

Pixels = npt.NDArray[np.uint8]

# An image of one row, scaled until that row is as high as the model's input, would take gigabytes.
MAX_SCALED = 64  # a scaled image may have this many times the pixels of the model's input
# Small images are scaled up. All scaled images of a request together may have this many times the
# pixels that its files may have.
MAX_GROWTH = 4

# Images of up to this size take less time to decode than to hand to a thread.
INLINE_PIXELS = 256 * 256
# A thread works on several small images at once, up to this many pixels: a few milliseconds.
UNIT_PIXELS = 2**19


async def decode(
    files: Sequence[bytes],
    preprocessing: Preprocessing,
    *,
    pool: DecodePool,
    caller: str,
    max_pixels: int,
) -> Pixels:
    """Decode image files to the pixels that the model takes, [batch, height, width, 3].

    All heads are read first. A request that is refused by them costs no decoding.

    Args:
        files: the bytes of one JPEG, PNG or WebP each, at least one.
        preprocessing: gives the size of the model's input.
        pool: the threads that decode, unless the images are few and small.
        caller: the owner of the request, such as a key's id.
        max_pixels: the limit for all files together, so that a request's work is bounded.

    Raises:
        ServiceError: if a file's content is no JPEG, PNG or WebP, has too many pixels, or is
            unreadable; overloaded, if the caller has its share of the pool already.
    """
    sizes = [read_size(data) for data in files]
    areas = [width * height for width, height in sizes]
    if sum(areas) > max_pixels:
        refusal = IMAGE_TOO_LARGE if max(areas) > max_pixels else PIXELS_TOO_MANY
        raise ServiceError(refusal, limit=max_pixels)
    pixels = _count_pixels(sizes, preprocessing, max_scaled=MAX_GROWTH * max_pixels)
    costs = [max(cost, len(data)) for cost, data in zip(pixels, files, strict=True)]
    calls = [
        partial(_decode, data, size, preprocessing) for data, size in zip(files, sizes, strict=True)
    ]
    return np.concatenate(await _run(calls, costs, pool=pool, caller=caller))


async def fit(
    images: Pixels, preprocessing: Preprocessing, *, pool: DecodePool, caller: str, max_pixels: int
) -> Pixels:
    """Resize a batch of pixels, [batch, height, width, 3], to the size that the model takes.

    Args:
        images: at least one image.
        preprocessing: gives the size of the model's input.
        pool: the threads that resize, unless the images are few and small.
        caller: the owner of the request, such as a key's id.
        max_pixels: a fourth of the limit for all scaled images together.

    Raises:
        ServiceError: too_large, if the scaled images have too many pixels; overloaded, if the
            caller has its share of the pool already.
    """
    height, width = images.shape[1:3]
    if fits_already((width, height), preprocessing):
        return images
    sizes = [(width, height)] * len(images)
    costs = _count_pixels(sizes, preprocessing, max_scaled=MAX_GROWTH * max_pixels)
    calls = [partial(_resize_array, image, preprocessing) for image in images]
    return np.concatenate(await _run(calls, costs, pool=pool, caller=caller))


async def _run(
    calls: Sequence[Callable[[], Pixels]], costs: Sequence[int], *, pool: DecodePool, caller: str
) -> list[Pixels]:
    """Make the images of a request: here if they are few and small, else in the pool."""
    total = sum(costs)
    if total <= INLINE_PIXELS:
        return [call() for call in calls]
    units: list[list[Callable[[], Pixels]]] = []
    room = 0
    for call, cost in zip(calls, costs, strict=True):
        if cost > room:
            units.append([])
            room = UNIT_PIXELS
        units[-1].append(call)
        room -= cost
    return await pool.run(caller, [partial(_run_unit, unit) for unit in units], cost=total)


def _run_unit(calls: Sequence[Callable[[], Pixels]]) -> Pixels:
    return np.concatenate([call() for call in calls])


def _count_pixels(
    sizes: Sequence[Size], preprocessing: Preprocessing, *, max_scaled: int
) -> list[int]:
    """Return the pixels of each image, before or after its scaling, whichever are more.

    Raises:
        ServiceError: too_large, if one scaled image or all scaled images have too many.
    """
    height, width = preprocessing.size
    most = min(MAX_SCALED * width * height, max_scaled)
    left = max_scaled
    counts = []
    for size in sizes:
        scaled_width, scaled_height = scaled_size(size, preprocessing)
        scaled = scaled_width * scaled_height
        left -= scaled
        if scaled != size[0] * size[1] and (scaled > most or left < 0):
            raise ServiceError(SCALED_TOO_LARGE, limit=most if scaled > most else max_scaled)
        counts.append(max(size[0] * size[1], scaled))
    return counts


def _decode(data: bytes, size: Size, preprocessing: Preprocessing) -> Pixels:
    """Decode one file to [1, height, width, 3]."""
    image = decode_file(data, size, exif_rotation=preprocessing.exif_rotation)
    return transform(image, preprocessing)[None]


def _resize_array(image: Pixels, preprocessing: Preprocessing) -> Pixels:
    """Bring one image to [1, height, width, 3]."""
    return transform(Image.fromarray(image), preprocessing)[None]
