"""The damage of a PNG that Pillow does not report.

Pillow reads the pixels that are there. It does not look at the checksums of their chunks or at the
end, and it leaves rows that are missing black. The server refuses such a file, so an audit does.
Source: Portable Network Graphics, third edition, sections 5.3 and 13.
"""

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Adam7: the first column and row of each pass, and the steps from one pixel to the next.
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_PIECE = 2**20  # bytes that are inflated at a time


def check_png(data: bytes) -> None:
    """Check that a PNG is whole. What follows its end is ignored.

    Raises ValueError if a chunk is damaged or misplaced, the end is missing, or there are more or
    fewer pixels than the head declares. Raises zlib.error if the pixels do not inflate.
    """
    chunks = list(_read_chunks(data))
    coded = b"".join(content for name, content in chunks if name == b"IDAT")
    names = [name for name, _ in chunks]
    first, count = names.index(b"IDAT"), names.count(b"IDAT")
    if names[first : first + count] != [b"IDAT"] * count:
        raise ValueError("expected the pixels in chunks side by side, got others between")
    left = _count_row_bytes(data)
    inflater = zlib.decompressobj()
    while coded and left >= 0 and not inflater.eof:
        left -= len(inflater.decompress(coded, _PIECE))
        coded = inflater.unconsumed_tail
    if left < 0 or left != len(inflater.flush()) or not inflater.eof:
        raise ValueError("expected as many pixels as the head declares, got others")


def _read_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and content of each chunk up to the end, and check its checksum."""
    at = len(SIGNATURE)
    while True:
        length = int.from_bytes(data[at : at + 4])
        named = data[at + 4 : at + 8 + length]
        end = at + 12 + length
        checksum = int.from_bytes(data[end - 4 : end])
        if end > len(data) or zlib.crc32(named) != checksum:
            raise ValueError("expected whole chunks up to the end, got a damaged one")
        if named[:4] == b"IEND":
            return
        yield named[:4], named[4:]
        at = end


def _count_row_bytes(data: bytes) -> int:
    """Count the bytes of all rows before compression. Each begins with the byte of its filter."""
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if len(data) < 29 or data[12:16] != b"IHDR" or data[25] not in _CHANNELS or data[28] > 1:
        raise ValueError("expected a PNG that begins with its head, got another")
    bits = data[24] * _CHANNELS[data[25]]
    if data[28] == 0:
        return height * (1 + -(-width * bits // 8))
    total = 0
    for left, top, across, down in _PASSES:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total
