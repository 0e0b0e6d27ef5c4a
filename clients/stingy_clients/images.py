"""What the user hands over, turned into what is sent; refuses here what the server would refuse.

Invariant: bytes travel as they are (the server decodes), pixels travel as uint8 and unresized.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stingy_clients.errors import BadInput

Pixels = NDArray[np.uint8]

REQUEST_BYTES = 32 * 2**20
"""The most that one request carries, below the 40 MiB that a server accepts by default."""

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"


@runtime_checkable
class PillowLike(Protocol):
    """A Pillow image, known by its shape so that Pillow need not be installed."""

    def convert(self, mode: str, /) -> object:
        """`convert("RGB")` gives an image that numpy can read as uint8 [H, W, 3]."""


Image = str | Path | bytes | NDArray[np.generic] | PillowLike
Payload = bytes | Pixels
Batch = tuple[bytes, ...] | Pixels


def payload(image: object) -> Payload:
    """One image as the bytes of a JPEG or PNG file, or as pixels uint8 [H, W, 3].

    Raises:
        BadInput: neither a path, bytes, a uint8 array nor a Pillow image, or no image in it.
    """
    if isinstance(image, str | Path):
        return _checked_file(_read(Path(image)), name=f"the file {image}")
    if isinstance(image, bytes):
        return _checked_file(image, name="bytes")
    if isinstance(image, np.ndarray):
        return _pixels(image)
    if isinstance(image, PillowLike):
        try:
            return _pixels(np.asarray(image.convert("RGB")))
        except (OSError, SyntaxError, ValueError):  # Pillow reads the file only here
            raise BadInput("expected a Pillow image, got one that cannot be read") from None
    raise BadInput(
        "expected a path, the bytes of a JPEG or PNG, a uint8 array or a Pillow image, "
        f"got {type(image).__name__}"
    )


def payloads(images: object) -> list[Payload] | Pixels:
    """Many images, all of them checked: one uint8 array [B, H, W, 3] or a list of payloads.

    Raises:
        BadInput: not such an array, nor an iterable of what `payload` takes.
    """
    if isinstance(images, np.ndarray):
        return pixel_batch(images)
    if isinstance(images, str | bytes | Path | PillowLike) or not isinstance(images, Iterable):
        raise BadInput(
            "expected a list of images or one uint8 array [B, H, W, 3], "
            f"got {type(images).__name__}"
        )
    return [payload(image) for image in images]


def batches(items: list[Payload] | Pixels, *, most: int) -> Iterator[Batch]:
    """The images in order, in batches of at most `most` images and REQUEST_BYTES.

    A batch is uint8 [B, H, W, 3] or a tuple of B encoded files: neighbours of one kind (files, or
    pixels of one size) share a batch. An image beyond REQUEST_BYTES goes alone.
    """
    if isinstance(items, np.ndarray):
        step = max(1, min(most, REQUEST_BYTES // max(1, items[:1].nbytes)))
        yield from (items[start : start + step] for start in range(0, len(items), step))
        return
    batch: list[Payload] = []
    size = 0
    for item in items:
        added = len(item) if isinstance(item, bytes) else item.nbytes
        full = len(batch) == most or size + added > REQUEST_BYTES
        if batch and (full or _shape(item) != _shape(batch[0])):
            yield _joined(batch)
            batch, size = [], 0
        batch.append(item)
        size += added
    if batch:
        yield _joined(batch)


def pixel_batch(images: object) -> Pixels:
    """`images` itself, checked to be uint8 [B, H, W, 3] with H, W >= 1.

    Raises:
        BadInput: another type or shape.
    """
    if not isinstance(images, np.ndarray):
        raise BadInput(f"expected a uint8 array [B, H, W, 3], got {type(images).__name__}")
    array = _uint8(images, expected="[B, H, W, 3]")
    if array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape[1:]:
        raise BadInput(f"expected a uint8 array [B, H, W, 3], got the shape {list(array.shape)}")
    return array


def _pixels(image: NDArray[np.generic]) -> Pixels:
    array = _uint8(image, expected="[H, W, 3] or [H, W]")
    if array.ndim == 4:
        raise BadInput("expected one image, got an array of four dimensions: use predict_batch")
    if array.ndim == 2:
        array = np.repeat(array[:, :, np.newaxis], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise BadInput(
            f"expected a uint8 array [H, W, 3] or [H, W], got the shape {list(image.shape)}"
        )
    return array


def _uint8(array: NDArray[np.generic], *, expected: str) -> Pixels:
    if array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    advice = ""
    if np.issubdtype(array.dtype, np.floating):
        advice = ": multiply values in 0..1 by 255 and cast to uint8"
    raise BadInput(f"expected a uint8 array {expected}, got {array.dtype}{advice}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or "not a path"
        raise BadInput(f"expected an image file, got {path}: {reason}") from None


def _checked_file(data: bytes, *, name: str) -> bytes:
    if not data.startswith((_JPEG, _PNG)):
        raise BadInput(f"expected a JPEG or PNG, got {name} with other content")
    return data


def _shape(item: Payload) -> tuple[int, ...]:
    return () if isinstance(item, bytes) else item.shape


def _joined(batch: list[Payload]) -> Batch:
    return np.stack(batch) if _shape(batch[0]) else tuple(bytes(item) for item in batch)
