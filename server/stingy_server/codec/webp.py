"""WebP files: the size in the head, and decoding of still images.

The decoder gets the picture's own chunk alone. An alpha plane, profiles and comments are not
decoded, and an animation is refused.
"""

from io import BytesIO
from typing import NamedTuple

from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

MAX_CHUNKS = 64  # each takes a turn of a Python loop
LOSSY, LOSSLESS, EXTENDED = b"VP8 ", b"VP8L", b"VP8X"
_ANIMATED = 0x02  # of the flags of an extended file


# A lossless picture may have a set of codes for each 16 pixels, of 6 kB each when it is decoded.
# So a decoder takes up to 190 MB; at 65,536 sets, the most of the format, it would take 370.
MAX_LOSSLESS = 2**19  # pixels


class LargeLossless(ValueError):
    """A lossless picture of more than `MAX_LOSSLESS` pixels."""


class AnimatedImage(ValueError):
    """A file with several frames."""


class _Picture(NamedTuple):
    """The chunk of a still picture, data[start:stop] without its head."""

    kind: bytes
    start: int
    stop: int
    size: tuple[int, int]


def is_webp(data: bytes) -> bool:
    """Return true if the content begins as a WebP file does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_webp_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of a WebP file.

    Raises:
        AnimatedImage: if it has several frames.
        LargeLossless: if it is lossless and has more than `MAX_LOSSLESS` pixels.
        ValueError: if its head is damaged.
    """
    picture = _find_picture(data)
    if picture.kind == LOSSLESS and picture.size[0] * picture.size[1] > MAX_LOSSLESS:
        raise LargeLossless(f"expected a lossless WebP of at most {MAX_LOSSLESS} pixels, got more")
    return picture.size


def decode_webp(data: bytes) -> Image.Image:
    """Decode a WebP file. What follows its end is ignored.

    Raises:
        ValueError, OSError, SyntaxError: if it is damaged.
    """
    kind, start, stop, _ = _find_picture(data)
    content = data[start:stop] + b"\0" * ((stop - start) & 1)
    chunk = kind + (stop - start).to_bytes(4, "little") + content
    image = WebPImageFile(
        BytesIO(b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk)
    )
    image.load()
    return image


def find_webp_exif(data: bytes) -> bytes:
    """Return the EXIF data of a WebP file, or nothing."""
    for kind, start, stop in _read_chunks(data):
        if kind == b"EXIF":
            return data[start:stop].removeprefix(b"Exif\0\0")
    return b""


def _read_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Return the name, start and stop of each chunk.

    Raises ValueError if a chunk is not whole, or there are too many.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise ValueError("expected a whole WebP file, got a part")
    chunks: list[tuple[bytes, int, int]] = []
    at = 12
    while at < end:
        start = at + 8
        stop = start + int.from_bytes(data[at + 4 : start], "little")
        if stop > end or len(chunks) == MAX_CHUNKS:
            raise ValueError(f"expected at most {MAX_CHUNKS} whole chunks, got others")
        chunks.append((data[at : at + 4], start, stop))
        at = stop + (stop - start) % 2
    return chunks


def _find_picture(data: bytes) -> _Picture:
    chunks = _read_chunks(data)
    canvas = None
    pictures = []
    for kind, start, stop in chunks:
        if kind == EXTENDED and stop - start >= 10:
            canvas = _read_number(data, start + 4, 3) + 1, _read_number(data, start + 7, 3) + 1
            if data[start] & _ANIMATED:
                raise AnimatedImage("expected a still WebP, got an animated one")
        elif kind in (b"ANIM", b"ANMF"):
            raise AnimatedImage("expected a still WebP, got an animated one")
        elif kind in (LOSSY, LOSSLESS):
            pictures.append(_Picture(kind, start, stop, _read_size(data, kind, start, stop)))
    if len(pictures) != 1 or canvas not in (None, pictures[0].size):
        raise ValueError("expected one picture of the size of its canvas, got another file")
    return pictures[0]


def _read_size(data: bytes, kind: bytes, start: int, stop: int) -> tuple[int, int]:
    """Read the size in the head of the coded picture."""
    if kind == LOSSY:
        if stop - start < 10 or data[start] & 1 or data[start + 3 : start + 6] != b"\x9d\x01\x2a":
            raise ValueError("expected a key frame, got another")
        return _read_number(data, start + 6, 2) & 0x3FFF, _read_number(data, start + 8, 2) & 0x3FFF
    if stop - start < 5 or data[start] != 0x2F:
        raise ValueError("expected the head of a lossless picture, got another")
    bits = _read_number(data, start + 1, 4)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _read_number(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "little")
