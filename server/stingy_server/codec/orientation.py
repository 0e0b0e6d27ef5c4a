"""The orientation in a file's EXIF data, and the turned image."""

from collections.abc import Iterator

from PIL import Image

from stingy_server.codec import jpeg, png, webp

_TAG = 0x0112  # Orientation, a short
MAX_ENTRIES = 512  # of the first directory; cameras write about 20

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn(image: Image.Image, data: bytes) -> Image.Image:
    """Turn a decoded image as the EXIF data of its file say, as Pillow's `exif_transpose` does.

    Args:
        image: the image.
        data: the bytes of its file, which was decoded, so that its structure is sound.
    """
    method = TURNS.get(read_orientation(_find_exif(data)))
    return image if method is None else image.transpose(method)


def read_orientation(exif: bytes) -> int:
    """Return the orientation, 1..8, in EXIF data; 1 if there is none."""
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(exif[:4])
    if order is None:
        return 1
    at = _read_number(exif, 4, 4, order)
    for entry in _entries(exif, at, order):
        if _read_number(entry, 0, 2, order) == _TAG:
            found = _read_number(entry, 8, 2, order)
            return found if _read_number(entry, 2, 2, order) == 3 and 1 <= found <= 8 else 1
    return 1


def _entries(exif: bytes, at: int, order: str) -> Iterator[bytes]:
    count = min(_read_number(exif, at, 2, order), MAX_ENTRIES)
    for start in range(at + 2, at + 2 + 12 * count, 12):
        if start + 12 > len(exif):
            return
        yield exif[start : start + 12]


def _find_exif(data: bytes) -> bytes:
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.find_jpeg_exif(data)
    if data.startswith(png.SIGNATURE):
        return png.find_png_exif(data)
    return webp.find_webp_exif(data)


def _read_number(data: bytes, start: int, length: int, order: str) -> int:
    part = data[start : start + length]
    return int.from_bytes(part, "little" if order == "little" else "big")
