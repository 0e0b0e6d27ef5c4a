"""The kinds of images that Stingy reads, by their first bytes, and the sentence for each other.

The client and the audit's folders use this table. The server decodes on its own and refuses the
same kinds.
"""

MODES = frozenset(
    ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
)
"""The modes of Pillow images with 8 bits a channel or less, which have a form in RGB."""

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_ANIMATED = 0x02  # of the flags of an extended WebP
MAX_LOSSLESS = 2**19  # pixels of a lossless WebP, because decoding takes 370 bytes for each
_FOREIGN = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"\0\0\x01\0", "an ICO"),
    (b"%PDF", "a PDF"),
    (b"P5", "a PGM"),
    (b"P6", "a PPM"),
    (b"8BPS", "a PSD"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cjP", "a JPEG 2000"),
)
_BRANDS = {b"heic": "a HEIC", b"heix": "a HEIC", b"mif1": "a HEIF", b"avif": "an AVIF"}


def find_fault(data: bytes) -> str | None:
    """Return the sentence for a file of a kind that is not read, or None.

    Whether a file of a known kind is whole shows only when it is decoded.
    """
    if data.startswith(_JPEG):
        return None
    if data.startswith(_PNG):
        return describe_deep("PNG") if data[24:25] == b"\x10" else None
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        if data[12:16] == b"VP8X" and len(data) > 20 and data[20] & _ANIMATED:
            return "expected a still image, got an animated WebP; send one frame"
        if _count_lossless(data) > MAX_LOSSLESS:
            return (
                f"expected a lossless WebP of at most {MAX_LOSSLESS:,} pixels, got more; "
                "send it as PNG"
            )
        return None
    return f"expected a JPEG, PNG or WebP, got {_describe(data)}; convert it"


def describe_deep(kind: str) -> str:
    """Return the sentence for an image with more than 8 bits a channel."""
    return (
        f"expected 8 bits a channel, got a {kind} of more; "
        "convert it to 8 as for the training images"
    )


def _count_lossless(data: bytes) -> int:
    """Return the pixels of a lossless WebP, and 0 for another file."""
    at = 12
    for _ in range(64):
        if data[at : at + 4] == b"VP8L":
            bits = int.from_bytes(data[at + 9 : at + 13], "little")
            return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return 0


def _describe(data: bytes) -> str:
    if not data:
        return "no content"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "a video or another file")
    return next((name for start, name in _FOREIGN if data.startswith(start)), "other content")
