"""JPEG files: the size in the head, and decoding that refuses coded data that ends early.

Where a marker comes too early, libjpeg fills the rest of the picture with grey and only warns. So
the decoder gets each scan without the marker behind it. It uses up a whole scan. Of a scan that
ends early it leaves bytes, because it waits for more.
"""

import re
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

SIGNATURE = b"\xff\xd8\xff"

# A few bytes can make a decoder work for minutes. Each scan visits every pixel, and each segment
# takes a turn of a Python loop. Cameras and browsers write about 10 scans and 100 segments.
MAX_SCANS = 64
MAX_SEGMENTS = 512
MAX_RESTARTS = 2**18  # of a scan: enough for 16 million pixels with one after each unit

START_OF_SCAN, END_OF_IMAGE, RESTART_INTERVAL = 0xDA, 0xD9, 0xDD
APP1 = 0xE1
PROGRESSIVE = 0xC2
FRAMES = frozenset({0xC0, 0xC1, PROGRESSIVE})  # Huffman-coded
# Lossless, hierarchical and arithmetic coding. Arithmetic codes do not show that they end early.
OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, RST0 to RST7, SOI: markers without a segment
RESTARTS = range(0xD0, 0xD8)
# Beside these, DHT, DQT, and APP0 and APP14, which name the colour space. Others are not decoded.
HEAD_SEGMENTS = FRAMES | {START_OF_SCAN, RESTART_INTERVAL, 0xC4, 0xDB, 0xE0, 0xEE}
_MARKER = re.compile(rb"\xff[^\x00\xff]")

# The decoder reads up to 64 bits ahead. It gets ones there, which are no code of any table.
_ONES = b"\xff\x00"
_AHEAD = _ONES * 8
_ALL = 2**64 - 1  # the 64 coefficients of a block, a bit each


class DeepImage(ValueError):
    """A file with more than 8 bits a channel."""


class _Segment(NamedTuple):
    """A marker with its content, data[start:stop].

    A start of scan has coded data too, data[stop:end], with so many restart markers.
    """

    kind: int
    start: int
    stop: int
    end: int
    restarts: int = 0


class _Layout(NamedTuple):
    """The parts of a JPEG that are decoded.

    Attributes:
        head: all before the coded data of the first scan, without comments and profiles.
        scans: start and end of each scan in the file. All but the first begin with their tables.
        end: the end of the image in the file.
        in_one_scan: whether the first scan has the whole picture, so that no other is decoded.
    """

    head: bytes
    scans: list[tuple[int, int]]
    end: int
    in_one_scan: bool


def read_jpeg_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of a JPEG, as its frame declares them.

    Raises:
        DeepImage: if it has more than 8 bits a channel.
        ValueError: if there is no frame, or it is of a kind that is not decoded here.
    """
    for segment in _segments(data, head_only=True):
        if segment.kind in FRAMES and segment.stop - segment.start >= 6:
            if data[segment.start] != 8:
                raise DeepImage("expected a JPEG of 8 bits a channel, got one of more")
            height, width = _words(data[segment.start + 1 : segment.start + 5])
            return width, height
        if segment.kind in OTHER_FRAMES:
            break
    raise ValueError("expected a frame of a Huffman-coded JPEG, got none")


def decode_jpeg(data: bytes) -> Image.Image:
    """Decode a JPEG. What follows its end marker, such as a video, is ignored.

    Raises:
        ValueError: if a scan ends early by more than 64 bits, if a scan, a restart marker or the
            end marker is missing, or if there are too many scans or segments.
        OSError, SyntaxError: if the file is damaged in another way.
    """
    head, scans, end, in_one_scan = _read_layout(data)
    image = JpegImageFile(BytesIO(head))
    image.load_prepare()
    (tile,) = image.tile
    decoder = Image._getdecoder(image.mode, tile.codec_name, tile.args, image.decoderconfig)
    try:
        decoder.setimage(image.im, tile.extents)
        for start, stop in scans:
            given = head + data[start:stop] + _AHEAD
            used, code = decoder.decode(given)
            if used < 0:
                break
            # After a whole scan the decoder looks for a marker and skips all else. In a scan that
            # ends early it waits for a full buffer, and one byte more is not enough.
            whole = used == len(given) and decoder.decode(_ONES)[0] == len(_ONES)
            if in_one_scan or not whole:
                raise ValueError("expected a whole scan, got one that ends early")
            head = b""
        else:
            used, code = decoder.decode(data[scans[-1][1] : end])
    finally:
        decoder.cleanup()
    if used >= 0 or code < 0:
        raise ValueError("expected a JPEG that decodes, got a damaged one")
    image.tile = []
    return image


def find_jpeg_exif(data: bytes) -> bytes:
    """Return the EXIF data of a JPEG, or nothing."""
    for segment in _segments(data, head_only=True):
        content = data[segment.start : segment.stop]
        if segment.kind == APP1 and content.startswith(b"Exif\0\0"):
            return content[6:]
        if segment.kind == START_OF_SCAN:
            break
    return b""


def _segments(data: bytes, *, head_only: bool = False) -> Iterator[_Segment]:
    """Yield the segments of a file, which are whole, up to the end of the image.

    With `head_only` end before the first scan, because finding its end takes long.

    Raises ValueError if there are too many.
    """
    at = 2
    for _ in range(MAX_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 2 > len(data):
            return
        kind, start = data[at + 1], at + 2
        if kind in (0x00, 0xFF):  # fill bytes
            at += 1
            continue
        if kind in BARE:
            at = start
            continue
        if kind == END_OF_IMAGE:
            yield _Segment(kind, start, start, start)
            return
        at = stop = start + max(2, int.from_bytes(data[start : start + 2]))
        restarts = 0
        if stop > len(data):
            return
        if kind == START_OF_SCAN:
            if head_only:
                return
            at, restarts = _end_of_scan(data, stop)
        yield _Segment(kind, start + 2, stop, at, restarts)
    raise ValueError(f"expected at most {MAX_SEGMENTS} segments, got more")


def _end_of_scan(data: bytes, start: int) -> tuple[int, int]:
    """Return the place of the first marker that is no restart, and the number of restarts before.

    Raises ValueError if there is no such marker, or too many restarts come before.
    """
    for restarts, found in enumerate(islice(_MARKER.finditer(data, start), MAX_RESTARTS)):
        if data[found.end() - 1] not in RESTARTS:
            return found.start(), restarts
    raise ValueError("expected a marker behind a scan, got none")


def _read_layout(data: bytes) -> _Layout:
    """Find the scans, and check that they have every coefficient and every restart marker.

    Raises ValueError if one is missing, or if the file is of a kind that is not decoded here.
    """
    head = [data[:2]]
    scans: list[tuple[int, int]] = []
    frame = b""
    progressive = in_one_scan = False
    interval = 0
    missing: dict[int, int] = {}  # by component, the coefficients that no scan has in full
    for kind, start, stop, end, restarts in _segments(data):
        content = data[start:stop]
        if kind == END_OF_IMAGE:
            if any(missing.values()) or not 0 < len(scans) <= MAX_SCANS:
                break
            return _Layout(b"".join(head), scans, stop, in_one_scan)
        if kind in OTHER_FRAMES or (kind in FRAMES and frame):
            break
        if not scans and kind in HEAD_SEGMENTS:
            head.append(data[start - 4 : stop])
        if kind in FRAMES:
            frame, progressive = content, kind == PROGRESSIVE
            missing = dict.fromkeys(frame[6::3], _ALL)
        elif kind == RESTART_INTERVAL:
            interval = int.from_bytes(content[:2])
        elif kind == START_OF_SCAN and len(content) == 4 + 2 * content[0]:
            components = content[1:-3:2]
            complete = _completed(content) if progressive else _ALL
            missing.update((each, missing.get(each, 0) & ~complete) for each in components)
            expected = (_count_units(frame, components) - 1) // interval if interval else 0
            # What is missing before a restart becomes grey. Some encoders write one at the end.
            if restarts not in (expected, expected + 1):
                break
            if not scans:
                in_one_scan = not (progressive or any(missing.values()))
            scans.append((scans[-1][1] if scans else stop, end))
    raise ValueError(f"expected a whole Huffman-coded JPEG of 1..{MAX_SCANS} scans, got another")


def _completed(scan: bytes) -> int:
    """Return the coefficients that a scan of a progressive JPEG has to the last bit."""
    first, last, bits = scan[-3:]
    return 0 if bits & 15 else (2 << last) - (1 << first)


def _count_units(frame: bytes, components: bytes) -> int:
    """Count the coded units (MCU, ITU-T T.81 A.2) of a scan of these components.

    Raises ValueError if the frame lacks one of them.
    """
    height, width = _words(frame[1:5])
    factors = {
        frame[i]: (frame[i + 1] >> 4, frame[i + 1] & 15) for i in range(6, len(frame) - 2, 3)
    }
    known = set(components) <= factors.keys() and all(all(pair) for pair in factors.values())
    if not components or not known:
        raise ValueError("expected a scan of the frame's components, got another")
    most_across = max(across for across, _ in factors.values())
    most_down = max(down for _, down in factors.values())
    across, down = most_across, most_down
    if len(components) == 1:
        width = -(-width * factors[components[0]][0] // most_across)
        height = -(-height * factors[components[0]][1] // most_down)
        across = down = 1
    return -(-width // (8 * across)) * -(-height // (8 * down))


def _words(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:2]), int.from_bytes(data[2:4])
