"""The chunked coding of a request's body (RFC 9112, section 7.1), byte by byte or at once.

Extensions of chunks and trailers are read and dropped. A trailer never becomes a header.
"""

import re

from stingy_server.process.request_head import MalformedRequest

MAX_LINE_BYTES = 4096  # of a chunk's size with its extensions, or of one trailer
MAX_TRAILERS = 100
# Each chunk takes as long as kilobytes of data. Clients send chunks of kilobytes.
MAX_SMALL_CHUNKS = 1000  # of a body
SMALL_CHUNK_BYTES = 256  # a body may have one chunk more for each time that it has so many bytes
SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[^\r\n\0]*)?")
TRAILER = re.compile(rb"[\w!#$%&'*+.^`|~-]+:[^\r\n\0]*", re.ASCII)


class ChunkedBody:
    """The state of one chunked body.

    Attributes:
        complete: whether the last chunk and the trailers have come.
        starved: whether the last call used all it could. Otherwise it stopped at `most_chunks`.
    """

    __slots__ = (
        "_chunks_left",
        "_data_left",
        "_in_trailers",
        "_trailers",
        "complete",
        "starved",
    )

    def __init__(self) -> None:
        self._data_left = 0  # bytes of the present chunk, with the line end behind it
        self._chunks_left = MAX_SMALL_CHUNKS * SMALL_CHUNK_BYTES  # in bytes, see `_take_line`
        self._in_trailers = False
        self._trailers = 0
        self.complete = False
        self.starved = True

    def decode(self, data: bytes, start: int, *, most_chunks: int) -> tuple[list[bytes], int]:
        """Decode up to `most_chunks` chunks of `data` from `start` on.

        Returns the decoded pieces and the number of the first byte that was not used. The caller
        passes the unused bytes again, with more bytes behind them.

        Raises:
            MalformedRequest: the coding is broken.
        """
        pieces: list[bytes] = []
        self.starved = True
        for _ in range(most_chunks):
            if self._data_left:
                start = self._take_data(data, start, pieces)
                if self._data_left:
                    break
            end = data.find(b"\r\n", start, start + MAX_LINE_BYTES)
            if end < 0:
                if len(data) - start >= MAX_LINE_BYTES or _broken(data, start):
                    raise MalformedRequest
                break
            self._take_line(data[start:end])
            start = end + 2
            if self.complete:
                break
        else:
            self.starved = False
        return pieces, start

    def _take_data(self, data: bytes, start: int, pieces: list[bytes]) -> int:
        if self._data_left > 2:
            piece = data[start : start + self._data_left - 2]
            if piece:
                pieces.append(piece)
            self._data_left -= len(piece)
            start += len(piece)
        if self._data_left <= 2:
            line_end = data[start : start + self._data_left]
            if line_end != b"\r\n"[2 - self._data_left :][: len(line_end)]:
                raise MalformedRequest
            self._data_left -= len(line_end)
            start += len(line_end)
        return start

    def _take_line(self, line: bytes) -> None:
        if not self._in_trailers:
            found = SIZE.fullmatch(line)
            if found is None:
                raise MalformedRequest
            size = int(found[1], 16)
            self._in_trailers = size == 0
            self._data_left = size + 2 if size else 0
            self._chunks_left += size - SMALL_CHUNK_BYTES
            if self._chunks_left < 0:
                raise MalformedRequest
        elif not line:
            self.complete = True
        else:
            self._trailers += 1
            if self._trailers > MAX_TRAILERS or TRAILER.fullmatch(line) is None:
                raise MalformedRequest


def _broken(data: bytes, start: int) -> bool:
    """Return whether a line that has not ended already contains a line feed or a lone CR."""
    line = data[start:]
    return b"\n" in line or b"\r" in line[:-1]
