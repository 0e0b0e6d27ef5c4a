"""Image files made byte by byte: whole ones, and ones that encoders do not write."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # the colour types of PNG
END_OF_IMAGE = b"\xff\xd9"


def photo(width: int = 250, height: int = 190, *, mode: str = "RGB") -> Image.Image:
    """Make a picture with soft shapes and some noise, the same at each call."""
    rng = np.random.default_rng(0)
    soft = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize((width, height))
    noisy = np.asarray(soft) + rng.integers(-5, 6, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """Encode an image as Pillow does."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(**options: Any) -> bytes:
    """Return a JPEG of the photo."""
    return encoded(photo(mode=options.pop("mode", "RGB")), "JPEG", **options)


def cut_jpeg(whole: bytes, length: int) -> bytes:
    """Keep this many bytes of a JPEG and put an end marker behind them."""
    return whole[:length] + END_OF_IMAGE


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """Return a chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def raw_png(
    width: int,
    height: int,
    rows: bytes,
    *,
    depth: int = 8,
    colour: int = RGB,
    interlace: int = 0,
    between: bytes = b"",
) -> bytes:
    """Return a PNG with this head and these filtered rows, whether they fit or not."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    parts = [PNG_SIGNATURE, chunk(b"IHDR", header), between]
    return b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND")])


def png_rows(width: int, height: int, bits: int) -> bytes:
    """Return unfiltered rows of random pixels, of so many bits each."""
    rng = np.random.default_rng(0)
    return b"".join(b"\0" + rng.bytes(-(-width * bits // 8)) for _ in range(height))
