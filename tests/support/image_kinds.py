"""Image files of every kind that people have, with what server, client and folders do with them."""

import struct
from io import BytesIO

import numpy as np
from PIL import Image

from image_bytes import GREY, GREY_ALPHA, RGB, RGBA, encoded, jpeg, photo, png_rows, raw_png

_LAYERS = {GREY: 1, GREY_ALPHA: 2, RGB: 3, RGBA: 4}


def deep_png(colour: int) -> bytes:
    """Return a PNG of 16 bits a channel."""
    bits = 16 * _LAYERS[colour]
    return raw_png(40, 30, png_rows(40, 30, bits), depth=16, colour=colour)


def motion_photo() -> bytes:
    """Return a JPEG with a video behind it."""
    return jpeg() + b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(100_000)


def mpo() -> bytes:
    """Return a JPEG with a second picture behind it."""
    return encoded(photo(), "MPO", save_all=True, append_images=[photo(80, 60)])


def animated(form: str) -> bytes:
    """Return an animation of two frames."""
    frames = [photo(60, 50), photo(60, 50).rotate(90)]
    buffer = BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:], lossless=True)
    return buffer.getvalue()


def webp(mode: str = "RGB", **options: object) -> bytes:
    """Return a still WebP of the photo."""
    return encoded(photo(mode=mode), "WEBP", **options)


def with_chunk(data: bytes, name: bytes, content: bytes) -> bytes:
    """Append a chunk to a WebP file."""
    content += b"\0" * (len(content) % 2)
    whole = data[8:] + name + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(whole)) + whole


ACCEPTED: dict[str, bytes] = {
    "JPEG": jpeg(),
    "progressive JPEG": jpeg(progressive=True),
    "grey JPEG": jpeg(mode="L"),
    "CMYK JPEG": jpeg(mode="CMYK"),
    "MPO": mpo(),
    "motion photo": motion_photo(),
    "PNG": encoded(photo(), "PNG"),
    "1-bit PNG": encoded(photo(mode="1"), "PNG"),
    "grey PNG": encoded(photo(mode="L"), "PNG"),
    "grey PNG with alpha": encoded(photo(mode="LA"), "PNG"),
    "palette PNG": encoded(photo(mode="P"), "PNG"),
    "palette PNG with transparency": encoded(photo(mode="P"), "PNG", transparency=3),
    "PNG with alpha": encoded(photo(mode="RGBA"), "PNG"),
    "APNG": animated("PNG"),
    "WebP": webp(),
    "lossless WebP": webp(lossless=True),
    "WebP with alpha": webp("RGBA"),
    "lossless WebP with alpha": webp("RGBA", lossless=True),
    "WebP with profiles": webp(icc_profile=bytes(3000), exif=b"Exif\0\0" + bytes(100)),
}
REFUSED: dict[str, tuple[bytes, str]] = {
    "16-bit grey PNG": (deep_png(GREY), "8 bits a channel"),
    "16-bit grey PNG with alpha": (deep_png(GREY_ALPHA), "8 bits a channel"),
    "16-bit colour PNG": (deep_png(RGB), "8 bits a channel"),
    "16-bit colour PNG with alpha": (deep_png(RGBA), "8 bits a channel"),
    "animated WebP": (animated("WEBP"), "animated WebP"),
    "GIF": (encoded(photo(), "GIF"), "JPEG, PNG or WebP"),
    "BMP": (encoded(photo(), "BMP"), "JPEG, PNG or WebP"),
    "TIFF": (encoded(photo(), "TIFF"), "JPEG, PNG or WebP"),
    "16-bit TIFF": (
        encoded(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "TIFF"),
        "JPEG, PNG or WebP",
    ),
    "PPM": (encoded(photo(), "PPM"), "JPEG, PNG or WebP"),
    "ICO": (encoded(photo(), "ICO"), "JPEG, PNG or WebP"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(100), "JPEG, PNG or WebP"),
    "AVIF": (encoded(photo(), "AVIF"), "JPEG, PNG or WebP"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "JPEG, PNG or WebP"),
    "text": (b"hello", "JPEG, PNG or WebP"),
    "nothing": (b"", "JPEG, PNG or WebP"),
}
EXTENSION = {b"\xff\xd8": ".jpg", b"RI": ".webp"}


def extension(data: bytes) -> str:
    """Return an extension that torchvision's folders look at."""
    return EXTENSION.get(data[:2], ".png")
