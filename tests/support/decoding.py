"""Decoding and resizing for tests that need no pool of their own."""

from collections.abc import Sequence

from serving import PREPROCESSING
from stingy_protection import Preprocessing
from stingy_server.codec.decode_pool import DecodePool
from stingy_server.codec.images import Pixels, decode, fit

_pool = DecodePool(capacity=2**30)


async def decode_alone(
    files: Sequence[bytes], preprocessing: Preprocessing = PREPROCESSING, *, max_pixels: int = 2**24
) -> Pixels:
    """Decode the files of the one caller that there is."""
    return await decode(files, preprocessing, pool=_pool, caller="test", max_pixels=max_pixels)


async def fit_alone(
    images: Pixels, preprocessing: Preprocessing = PREPROCESSING, *, max_pixels: int = 2**24
) -> Pixels:
    """Resize the images of the one caller that there is."""
    return await fit(images, preprocessing, pool=_pool, caller="test", max_pixels=max_pixels)
