"""The encoding of images for requests. The client refuses here what the server would refuse.

Invariant: files are sent as they are, because the server decodes. Pixels are sent as uint8 in
their own size.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stingy_clients.errors import BadInput
from stingy_clients.image_kinds import MODES, count_pixels, describe_deep, find_fault

Pixels = NDArray[np.uint8]

REQUEST_BYTES = 32 * 2**20
"""The most bytes of images in one request, also where a server accepts more."""


@runtime_checkable
class PillowLike(Protocol):
    """A Pillow image, recognised by its method, because Pillow need not be installed."""

    def convert(self, mode: str, /) -> object:
        """Convert to an image that numpy reads as uint8 [H, W, 3], if `mode` is "RGB"."""


Image = str | Path | bytes | NDArray[np.generic] | PillowLike
Payload = bytes | Pixels
Batch = tuple[bytes, ...] | Pixels


def encode_image(image: object) -> Payload:
    """Convert one image to the bytes of an image file, or to pixels uint8 [H, W, 3].

    Raises:
        BadInput: if it is neither a path, bytes, a uint8 array nor a Pillow image, or if it
            contains no image.
    """
    if isinstance(image, str | Path):
        return _check_file(_read_file(Path(image)), name=f"the file {image}")
    if isinstance(image, bytes):
        return _check_file(image, name="bytes")
    if isinstance(image, np.ndarray):
        return _check_pixels(image)
    if isinstance(image, PillowLike):
        return _convert_pillow(image)
    raise BadInput(
        "expected a path, the bytes of a JPEG, PNG or WebP, a uint8 array or a Pillow image, "
        f"got {type(image).__name__}"
    )


def encode_images(images: object) -> list[Payload] | Pixels:
    """Check and convert many images: to one uint8 array [B, H, W, 3] or a list of payloads.

    Raises:
        BadInput: if it is neither such an array nor an iterable of images.
    """
    if isinstance(images, np.ndarray):
        return check_pixel_batch(images)
    if isinstance(images, str | bytes | Path | PillowLike) or not isinstance(images, Iterable):
        raise BadInput(
            "expected a list of images or one uint8 array [B, H, W, 3], "
            f"got {type(images).__name__}"
        )
    return [encode_image(image) for image in images]


def split_batches(
    items: list[Payload] | Pixels,
    *,
    most: int,
    pixels: int | None = None,
    nbytes: int | None = None,
) -> Iterator[Batch]:
    """Split images into batches that a request may hold, in their order.

    A batch is uint8 [B, H, W, 3] or a tuple of B encoded files. Neighbours of one kind (files, or
    pixels of one size) share a batch. An image beyond a limit has its own batch.

    Args:
        items: the images.
        most: the largest number of images of a batch.
        pixels: the largest number of pixels of its files in sum; None for no limit.
        nbytes: the largest number of its bytes; None for REQUEST_BYTES, which is never exceeded.
    """
    nbytes = REQUEST_BYTES if nbytes is None else min(REQUEST_BYTES, nbytes)
    if isinstance(items, np.ndarray):
        step = max(1, min(most, nbytes // max(1, items[:1].nbytes)))
        yield from (items[start : start + step] for start in range(0, len(items), step))
        return
    batch: list[Payload] = []
    bytes_left = pixels_left = 0
    for item in items:
        size, area = _measure(item)
        full = (
            len(batch) == most or size > bytes_left or (pixels is not None and area > pixels_left)
        )
        if batch and (full or _get_shape(item) != _get_shape(batch[0])):
            yield _join(batch)
            batch = []
        if not batch:
            bytes_left, pixels_left = nbytes, pixels or 0
        batch.append(item)
        bytes_left -= size
        pixels_left -= area
    if batch:
        yield _join(batch)


def _measure(item: Payload) -> tuple[int, int]:
    """Return the bytes of an image in a request, and the pixels that the server will decode."""
    if isinstance(item, bytes):
        return 4 + len(item), count_pixels(item)  # a file follows its own length
    return item.nbytes, 0


def check_pixel_batch(images: object) -> Pixels:
    """Check that `images` is uint8 [B, H, W, 3] with H, W >= 1, and return it.

    Raises:
        BadInput: if it has another type or shape.
    """
    if not isinstance(images, np.ndarray):
        raise BadInput(f"expected a uint8 array [B, H, W, 3], got {type(images).__name__}")
    array = _check_uint8(images, expected="[B, H, W, 3]")
    if array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape[1:]:
        raise BadInput(f"expected a uint8 array [B, H, W, 3], got the shape {list(array.shape)}")
    return array


def _check_pixels(image: NDArray[np.generic]) -> Pixels:
    array = _check_uint8(image, expected="[H, W, 3] or [H, W]")
    if array.ndim == 4:
        raise BadInput("expected one image, got an array of four dimensions: use predict_batch")
    if array.ndim == 2:
        array = np.repeat(array[:, :, np.newaxis], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise BadInput(
            f"expected a uint8 array [H, W, 3] or [H, W], got the shape {list(image.shape)}"
        )
    return array


def _check_uint8(array: NDArray[np.generic], *, expected: str) -> Pixels:
    if array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    advice = ""
    if np.issubdtype(array.dtype, np.floating):
        advice = ": multiply values in 0..1 by 255 and cast to uint8"
    raise BadInput(f"expected a uint8 array {expected}, got {array.dtype}{advice}")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or "not a path"
        raise BadInput(f"expected an image file, got {path}: {reason}") from None


def _check_file(data: bytes, *, name: str) -> bytes:
    fault = find_fault(data)
    if fault is not None:
        raise BadInput(f"{name}: {fault}")
    return data


def _convert_pillow(image: PillowLike) -> Pixels:
    """Convert a Pillow image of 8 bits a channel to RGB pixels.

    Pillow turns 16 bits into white, so its other modes are refused.
    """
    mode = getattr(image, "mode", "RGB")
    # Of a file of 16-bit colours that is not read yet, Pillow would drop the low bits.
    raw = [str(part) for tile in getattr(image, "tile", ()) for part in tile]
    if mode in ("I", "F") or ";16" in mode or any(";16" in part for part in raw):
        raise BadInput(describe_deep(f"Pillow image of the mode {mode}"))
    if mode not in MODES:
        raise BadInput(
            f"expected a Pillow image that has a form in RGB, got the mode {mode}; "
            'convert it as for the training images, such as with convert("RGB")'
        )
    if getattr(image, "is_animated", False) and getattr(image, "format", None) == "WEBP":
        raise BadInput("expected a still image, got an animated WebP; copy one frame")
    try:
        return _check_pixels(np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError, ValueError):  # Pillow reads the file in this call
        raise BadInput("expected a Pillow image, got one that cannot be read") from None


def _get_shape(item: Payload) -> tuple[int, ...]:
    return () if isinstance(item, bytes) else item.shape


def _join(batch: list[Payload]) -> Batch:
    return np.stack(batch) if _get_shape(batch[0]) else tuple(bytes(item) for item in batch)
