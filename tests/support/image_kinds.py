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


def other_frame(kind: int = 0xC0, *, bits: int = 8) -> bytes:
    """Return a JPEG whose frame says another coding, or other bits a channel."""
    data = bytearray(jpeg())
    at = data.find(b"\xff\xc0")
    data[at + 1], data[at + 4] = kind, bits
    return bytes(data)


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
    "largest lossless WebP": encoded(Image.new("RGB", (1024, 512)), "WEBP", lossless=True),
    "large WebP": encoded(Image.new("RGB", (2048, 1024)), "WEBP"),
    "WebP with alpha": webp("RGBA"),
    "lossless WebP with alpha": webp("RGBA", lossless=True),
    "WebP with profiles": webp(icc_profile=bytes(3000), exif=b"Exif\0\0" + bytes(100)),
}
REFUSED: dict[str, tuple[bytes, str]] = {
    "16-bit grey PNG": (deep_png(GREY), "8 bits a channel"),
    "16-bit grey PNG with alpha": (deep_png(GREY_ALPHA), "8 bits a channel"),
    "16-bit colour PNG": (deep_png(RGB), "8 bits a channel"),
    "16-bit colour PNG with alpha": (deep_png(RGBA), "8 bits a channel"),
    "12-bit JPEG": (other_frame(bits=12), "8 bits a channel"),
    "lossless JPEG": (other_frame(0xC3), "as a plain JPEG or PNG"),
    "arithmetic JPEG": (other_frame(0xC9), "as a plain JPEG or PNG"),
    "animated WebP": (animated("WEBP"), "animated WebP"),
    "large lossless WebP": (
        encoded(Image.new("RGB", (1024, 513)), "WEBP", lossless=True),
        "at most 524,288 pixels",
    ),
    "large lossless WebP with alpha": (
        encoded(photo(1024, 513, mode="RGBA"), "WEBP", lossless=True, exif=b"Exif\0\0"),
        "at most 524,288 pixels",
    ),
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
    "nothing": (b"", "got no content"),
}
EXTENSION = {b"\xff\xd8": ".jpg", b"RI": ".webp"}


def extension(data: bytes) -> str:
    """Return an extension that torchvision's folders look at."""
    return EXTENSION.get(data[:2], ".png")


class _Bits:
    """Bits in the order of a lossless WebP."""

    def __init__(self) -> None:
        self._bits: list[int] = []

    def put(self, value: int, count: int) -> None:
        """Append bits, the lowest first."""
        self._bits += [value >> place & 1 for place in range(count)]

    def code(self, value: int) -> None:
        """Append a code of 8 bits, the highest first."""
        self._bits += [value >> place & 1 for place in reversed(range(8))]

    def pack(self) -> bytes:
        """Return the bits as bytes, of an even number."""
        bits = self._bits + [0] * (-len(self._bits) % 16)
        return np.packbits(bits, bitorder="little").tobytes()


def lossless_bomb(width: int, height: int) -> bytes:
    """Make a lossless WebP with as many sets of codes as its size allows, up to 65,536."""
    bits = _Bits()
    bits.put(0x2F, 8)
    bits.put(width - 1, 14)
    bits.put(height - 1, 14)
    bits.put(0, 4)  # no alpha, version 0
    bits.put(0b100, 3)  # no transform, no colour cache, several sets of codes
    bits.put(0, 3)  # one for each 4 x 4 pixels
    sets = -(-width // 4) * -(-height // 4)
    bits.put(0, 1)  # no colour cache
    for alphabet in (280, 256):  # green and red: 256 codes of 8 bits
        bits.put(0, 1)
        bits.put(8, 4)
        for length in (0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1):
            bits.put(length, 3)
        bits.put(0, 1)
        for symbol in range(alphabet):
            bits.put(symbol < 256, 1)
    for _ in range(3):
        bits.put(1, 4)  # one code, of no bits
    for number in range(sets):
        bits.code(number & 255)
        bits.code(number >> 8 & 255)
    for _ in range(5 * min(sets, 2**16)):
        bits.put(1, 4)
    coded = bits.pack()
    chunk = b"VP8L" + len(coded).to_bytes(4, "little") + coded
    return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
