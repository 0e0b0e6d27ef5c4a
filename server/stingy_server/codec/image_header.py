"""The head of a JPEG or PNG: its format and size, read from a few bytes without decoding."""

from typing import Literal, NamedTuple

from stingy_server.errors import BAD_IMAGE, UNSUPPORTED_IMAGE, ServiceError

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
SIGNATURES = (JPEG, PNG)

# A decoder visits each segment in a loop of Python. Cameras write up to a hundred.
MAX_SEGMENTS = 256
START_OF_SCAN = 0xDA
# SOF0 to SOF15, without the tables DHT (C4) and DAC (CC) and the reserved JPG (C8).
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a segment: TEM, RST0 to RST7, SOI.
BARE = frozenset({0x01, *range(0xD0, 0xD9)})


class ImageHeader(NamedTuple):
    """The format and the size of an image file, as its head declares them.

    Attributes:
        form: the format.
        width: pixels, at least 1.
        height: pixels, at least 1.
    """

    form: Literal["JPEG", "PNG"]
    width: int
    height: int


def read_header(data: bytes) -> ImageHeader:
    """Read the head of an image file.

    Raises:
        ServiceError: unsupported_image if the content is no JPEG or PNG; bad_image if its head is
            damaged, or declares no pixels.
    """
    if data.startswith(PNG):
        header = _read_png(data)
    elif data.startswith(JPEG):
        header = _read_jpeg(data)
    else:
        raise ServiceError(UNSUPPORTED_IMAGE)
    if header is None or header.width * header.height == 0:
        raise ServiceError(BAD_IMAGE)
    return header


def _read_png(data: bytes) -> ImageHeader | None:
    if data[8:16] != b"\0\0\0\rIHDR" or len(data) < 33:
        return None
    return ImageHeader(
        "PNG", int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    )


def _read_jpeg(data: bytes) -> ImageHeader | None:
    """Walk from segment to segment, by their lengths, to the one with the frame's size."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 9 > len(data):
            return None
        kind = data[at + 1]
        if kind in FRAMES:
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return ImageHeader("JPEG", int.from_bytes(width, "big"), int.from_bytes(height, "big"))
        if kind == START_OF_SCAN:
            return None
        if kind in (0x00, 0xFF):  # fill bytes
            at += 1
        elif kind in BARE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
