"""The parser of requests: its verdict depends on the bytes, and never on their segments."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segments import assert_same_parse, bytewise, parsed
from stingy_server.process.chunked_body import MAX_SMALL_CHUNKS, SMALL_CHUNK_BYTES
from stingy_server.process.request_parser import CHUNKS_PER_TURN, MAX_BLANK_LINES, RequestParser

HEAD = b"POST /p HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LARGE_CHUNK = b"100\r\n%b\r\n" % bytes(SMALL_CHUNK_BYTES)
FRAGMENTS = (
    HEAD,
    CHUNKED,
    b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/1.0\r\n",
    b"Host: x\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Authorization: Bearer k\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\r",
    b"\n",
    b"hello",
    b"5\r\nhello\r\n",
    b"5;a=b\r\nhello\r\n",
    b"1\r\nx\r\n",
    b"0\r\n",
    b"0\r\n\r\n",
    b"fffffffffffffff\r\n",
    b" folded\r\n",
    b"\0",
    b"X: " + b"a" * 4090,
    b"X: a\r\n" * 40,
)


@given(
    fragments=st.lists(
        st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=8)), min_size=1, max_size=8
    ),
    places=st.lists(st.integers(0, 5000), max_size=8),
)
@example([CHUNKED, b"5\r\nhello\r\n", b"0\r\n", b"Host: y\r\n", b"\r\n", HEAD, b"\r\n"], [90])
@example([CHUNKED, LARGE_CHUNK * 2 * CHUNKS_PER_TURN, b"0\r\n\r\n", HEAD, b"\r\n"], [100, 101])
@settings(max_examples=100)
def test_C2_segments_do_not_change_what_is_parsed(
    fragments: Sequence[bytes], places: Sequence[int]
) -> None:
    assert_same_parse(RequestParser, b"".join(fragments), places)


@pytest.mark.parametrize("deliver", [lambda data: [data], bytewise], ids=["whole", "bytewise"])
def test_C2_trailer_becomes_no_header_of_any_request(
    deliver: Callable[[bytes], list[bytes]],
) -> None:
    trailers = b"Authorization: Bearer k\r\nHost: y\r\n"
    data = CHUNKED + b"5\r\nhello\r\n0\r\n" + trailers + b"\r\n" + HEAD + b"\r\n"
    first, second, rest = parsed(RequestParser, deliver(data))
    assert rest is False
    for request, body in ((first, b"hello"), (second, b"")):
        assert isinstance(request, tuple)
        assert dict(request[0].headers).keys() <= {b"host", b"transfer-encoding"}
        assert bytes(request[1]) == body


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-1\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"10000000000000000\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nA: b\nC: d\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"0\r\nA: " + b"b" * 5000 + b"\r\n\r\n",
        b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_C2_broken_chunks_are_malformed(body: bytes) -> None:
    for segments in ([CHUNKED + body], bytewise(CHUNKED + body)):
        assert parsed(RequestParser, segments)[-1] == "malformed"


@pytest.mark.parametrize(
    ("before", "costly", "most", "after"),
    [
        (b"", b"\r\n", MAX_BLANK_LINES, HEAD + b"\r\n"),
        (HEAD + b"\r\n", b"\r\n", MAX_BLANK_LINES, HEAD + b"\r\n"),
        (CHUNKED, b"1\r\nx\r\n", MAX_SMALL_CHUNKS, b"0\r\n\r\n"),
        (CHUNKED + LARGE_CHUNK * 9, b"1;a=b\r\nx\r\n", MAX_SMALL_CHUNKS, b"0\r\n\r\n"),
        (
            CHUNKED + b"1000\r\n%b\r\n" % bytes(4096),
            b"1\r\nx\r\n",
            MAX_SMALL_CHUNKS + 15,
            b"0\r\n\r\n",
        ),
    ],
    ids=["blank-first", "blank-between", "chunks", "chunks-behind-large-ones", "earned-by-bytes"],
)
def test_C6_costly_small_parts_are_refused_beyond_their_number(
    before: bytes, costly: bytes, most: int, after: bytes
) -> None:
    for deliver in (lambda data: [data], bytewise):
        assert parsed(RequestParser, deliver(before + costly * most + after))[-1] is False
        assert parsed(RequestParser, deliver(before + costly * (most + 9)))[-1] == "malformed"
