"""PNG files: the size in the head, and decoding of whole files of 8 bits or less a channel.

A decoder ends when its data does, and leaves the rest of the picture black. So every chunk, the end
and the number of bytes that the pixels inflate to are checked here. The decoder gets the pixels and
the palette alone. Comments and profiles are never inflated, and of an animation the default image
is decoded.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any, NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Each chunk takes a turn of a Python loop.
MAX_PIXEL_CHUNKS = 16_384  # 40 MB in chunks of 2.5 kB; encoders write 8 kB or more
MAX_OTHER_CHUNKS = 128
PIXEL_CHUNKS = frozenset({b"IDAT", b"fdAT", b"fcTL"})  # the last two: frames of an animation
# The bits of a channel, and the channels, by colour type. 16 bits would be cut to 8, and pictures
# that differ in the low bits would become one.
DEPTHS = {0: (1, 2, 4, 8), 2: (8,), 3: (1, 2, 4, 8), 4: (8,), 6: (8,)}
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PALETTE = 3  # the colour type of a PNG with a palette
# Adam7: the first column and row of each pass, and the steps from one pixel to the next.
PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
PIECE = 2**16  # bytes that are inflated at a time
_PIXELS_FOLLOW = b"\0\0\0\0IDAT"  # Pillow reads up to here to find out how pixels are coded


class DeepImage(ValueError):
    """A file with 16 bits a channel."""


class _Head(NamedTuple):
    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filtering: int
    interlace: int


def read_png_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of a PNG.

    Raises:
        ValueError: if the head is damaged, or of a kind that is not decoded here.
    """
    head = _read_head(data)
    return head.width, head.height


def decode_png(data: bytes) -> Image.Image:
    """Decode a PNG. What follows its end is ignored.

    Raises:
        ValueError, zlib.error: if a chunk, the end or pixels are missing, damaged or too many.
        OSError, SyntaxError: if the file is damaged in another way.
    """
    head = _read_head(data)
    palette, parts = _read_chunks(data)
    chunks = [data[8:33], _PIXELS_FOLLOW]
    if head.colour == PALETTE:
        if not 3 <= len(palette) <= 3 * 256 or len(palette) % 3:
            raise ValueError("expected a palette of 1..256 colours, got another")
        chunks.insert(1, _chunk(b"PLTE", palette))
    image = PngImageFile(BytesIO(SIGNATURE + b"".join(chunks)))
    image.load_prepare()
    (tile,) = image.tile
    decoder = Image._getdecoder(image.mode, tile.codec_name, tile.args, image.decoderconfig)
    try:
        decoder.setimage(image.im, tile.extents)
        used, code = _decode_rows(decoder, parts, expected=_count_bytes(head))
    finally:
        decoder.cleanup()
    if used >= 0 or code < 0:
        raise ValueError("expected a PNG that decodes, got a damaged one")
    image.tile = []
    return image


def find_png_exif(data: bytes) -> bytes:
    """Return the EXIF data of a PNG, or nothing."""
    for name, start, stop in _chunks(data):
        if name == b"eXIf":
            return data[start:stop]
    return b""


def _decode_rows(decoder: Any, parts: Sequence[memoryview], *, expected: int) -> tuple[int, int]:
    """Inflate the pixels piece by piece, count them, and pass them on, packed but not compressed.

    Returns the last result of the decoder. Raises ValueError if there is another number of bytes.
    """
    inflater, packer = zlib.decompressobj(), zlib.compressobj(0)
    given = b""
    used = code = 0
    for piece in (part[at : at + PIECE] for part in parts for at in range(0, len(part), PIECE)):
        rest: bytes | memoryview = piece
        more = True
        while more and not inflater.eof:
            rows = inflater.decompress(rest, PIECE)
            rest = inflater.unconsumed_tail
            more = bool(rest) or len(rows) == PIECE  # the inflater may have more without input
            expected -= len(rows)
            if expected < 0:
                raise ValueError("expected as many pixels as the head declares, got more")
            given += packer.compress(rows)
            if rows and not expected:
                given += packer.flush()
            if used >= 0:
                used, code = decoder.decode(given)
                given = given[used:]
    if expected or not inflater.eof:
        raise ValueError("expected as many pixels as the head declares, got fewer")
    return used, code


def _read_head(data: bytes) -> _Head:
    if data[8:16] != b"\0\0\0\rIHDR" or len(data) < 33:
        raise ValueError("expected a PNG that begins with its head, got another")
    head = _Head(*struct.unpack(">IIBBBBB", data[16:29]))
    if head.depth == 16:
        raise DeepImage("expected a PNG of up to 8 bits a channel, got 16")
    known = (head.compression, head.filtering) == (0, 0) and head.interlace <= 1
    if not known or head.depth not in DEPTHS.get(head.colour, ()):
        raise ValueError("expected a PNG of up to 8 bits a channel, got another")
    return head


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, start and stop of each chunk, up to the end. Check its checksum.

    Raises ValueError if a chunk is damaged, the end is missing, or there are too many.
    """
    view = memoryview(data)
    at = len(SIGNATURE)
    pixels, others = MAX_PIXEL_CHUNKS, MAX_OTHER_CHUNKS
    while pixels and others:
        start = at + 8
        stop = start + int.from_bytes(data[at : at + 4])
        name = data[at + 4 : start]
        if zlib.crc32(view[at + 4 : stop]) != int.from_bytes(data[stop : stop + 4]) or (
            len(data) < stop + 4
        ):
            raise ValueError("expected whole chunks, got a damaged one")
        if name == b"IEND":
            return
        yield name, start, stop
        at = stop + 4
        if name in PIXEL_CHUNKS:
            pixels -= 1
        else:
            others -= 1
    raise ValueError("expected fewer chunks, got more")


def _read_chunks(data: bytes) -> tuple[bytes, list[memoryview]]:
    """Return the palette, if there is one, and the compressed pixels, chunk by chunk."""
    palette = last = b""
    parts: list[memoryview] = []
    for name, start, stop in _chunks(data):
        if name == b"PLTE":
            palette = data[start:stop]
        elif name == b"IDAT":
            if parts and last != b"IDAT":
                raise ValueError("expected the pixels in chunks side by side, got others between")
            parts.append(memoryview(data)[start:stop])
        last = name
    return palette, parts


def _count_bytes(head: _Head) -> int:
    """Return the bytes of all inflated rows. Each row begins with the byte of its filter."""
    bits = head.depth * CHANNELS[head.colour]
    if not head.interlace:
        return head.height * (1 + -(-head.width * bits // 8))
    total = 0
    for left, top, across, down in PASSES:
        width, height = -(-(head.width - left) // across), -(-(head.height - top) // down)
        if width > 0:  # a pass without columns has no rows either
            total += max(0, height) * (1 + -(-width * bits // 8))
    return total


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return len(content).to_bytes(4) + name + content + checksum.to_bytes(4)
