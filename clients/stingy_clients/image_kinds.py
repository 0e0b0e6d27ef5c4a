"""The kinds of images that Stingy reads, by their first bytes, and the sentence for each other.

The client and the audit's folders use this table. The server decodes on its own and refuses the
same kinds.
"""

MODES = frozenset(
    ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
)
"""The modes of Pillow images with 8 bits a channel or less, which have a form in RGB."""

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # of a JPEG; they have its size
_HUFFMAN = frozenset((0xC0, 0xC1, 0xC2))
_BARE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers of a JPEG without a segment
_MAX_SEGMENTS = 512  # of a JPEG, before its frame; the server reads no more
_LOSSY, _LOSSLESS = b"VP8 ", b"VP8L"
_ANIMATED = 0x02  # of the flags of an extended WebP
MAX_LOSSLESS = 2**19  # pixels of a lossless WebP, because decoding takes 370 bytes for each
_FOREIGN = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"II+\0", "a TIFF"),
    (b"MM\0+", "a TIFF"),
    (b"\0\0\x01\0", "an ICO"),
    (b"%PDF", "a PDF"),
    (b"P1", "a PBM"),
    (b"P2", "a PGM"),
    (b"P3", "a PPM"),
    (b"P4", "a PBM"),
    (b"P5", "a PGM"),
    (b"P6", "a PPM"),
    (b"qoif", "a QOI"),
    (b"<svg", "an SVG"),
    (b"<?xml", "an SVG or another XML"),
    (b"%!PS", "a PostScript"),
    (b"8BPS", "a PSD"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\0\0\0\x0cjP", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
)
_BRANDS = {
    b"heic": "a HEIC",
    b"heix": "a HEIC",
    b"heim": "a HEIC",
    b"heis": "a HEIC",
    b"hevc": "a HEIC",
    b"hevx": "a HEIC",
    b"mif1": "a HEIF",
    b"msf1": "a HEIF",
    b"avif": "an AVIF",
    b"avis": "an AVIF",
}


def find_fault(data: bytes) -> str | None:
    """Return the sentence for a file of a kind that is not read, or None.

    Whether a file of a known kind is whole shows only when it is decoded.
    """
    if data.startswith(_JPEG):
        return _find_jpeg_fault(data)
    if data.startswith(_PNG):
        return describe_deep("PNG") if data[24:25] == b"\x10" else None
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        if data[12:16] == b"VP8X" and len(data) > 20 and data[20] & _ANIMATED:
            return "expected a still image, got an animated WebP; send one frame"
        kind, pixels = _find_webp_picture(data)
        if kind == _LOSSLESS and pixels > MAX_LOSSLESS:
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


def count_pixels(data: bytes) -> int:
    """Count the pixels of an image file by its head.

    Returns:
        width times height, or 0 if the head does not show them.
    """
    if data.startswith(_PNG):
        return int.from_bytes(data[16:20]) * int.from_bytes(data[20:24])
    return _count_jpeg(data) if data.startswith(_JPEG) else _find_webp_picture(data)[1]


def _find_jpeg_fault(data: bytes) -> str | None:
    at = _find_frame(data)
    if at is None or data[at + 1] in _HUFFMAN:
        return None if at is None or data[at + 4] == 8 else describe_deep("JPEG")
    return (
        "expected a Huffman-coded JPEG, got one of lossless or arithmetic coding; "
        "save it again as a plain JPEG or PNG"
    )


def _count_jpeg(data: bytes) -> int:
    """Return the pixels that the first frame of a JPEG declares, and 0 without one."""
    at = _find_frame(data)
    if at is None:
        return 0
    return int.from_bytes(data[at + 5 : at + 7]) * int.from_bytes(data[at + 7 : at + 9])


def _find_frame(data: bytes) -> int | None:
    """Return the place of the first frame's marker in a JPEG, or None."""
    at = 2
    for _ in range(_MAX_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0 or len(data) < at + 9:
            return None
        kind = data[at + 1]
        if kind in _FRAMES:
            return at
        if kind in (0x00, 0xFF):  # fill bytes
            at += 1
        else:
            at += 2 if kind in _BARE else 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _find_webp_picture(data: bytes) -> tuple[bytes, int]:
    """Return the kind and the pixels of a WebP's first picture, and 0 for another file."""
    at = 12
    for _ in range(64):
        kind, start = data[at : at + 4], at + 8
        if kind == _LOSSLESS:
            bits = int.from_bytes(data[start + 1 : start + 5], "little")
            return kind, ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
        if kind == _LOSSY:
            sides = (data[start + 6 : start + 8], data[start + 8 : start + 10])
            width, height = (int.from_bytes(side, "little") & 0x3FFF for side in sides)
            return kind, width * height
        length = int.from_bytes(data[at + 4 : start], "little")
        at += 8 + length + length % 2
    return b"", 0


def _describe(data: bytes) -> str:
    if not data:
        return "no content"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "a video or another file")
    return next((name for start, name in _FOREIGN if data.startswith(start)), "other content")
