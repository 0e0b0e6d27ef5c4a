"""Forms: the file of one field is found, and every other form is refused."""

import tracemalloc

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stingy_server.codec.form_data import MOST_PARTS, is_form, read_form_file
from stingy_server.errors import NO_FORM_FILE, ServiceError

TYPE = b"multipart/form-data; boundary=xyz"


def part(content: bytes, *, name: bytes = b'"data"', more: bytes = b"") -> bytes:
    head = b"Content-Disposition: form-data; name=" + name + more
    return b"--xyz\r\n" + head + b"\r\nContent-Type: image/png\r\n\r\n" + content + b"\r\n"


END = b"--xyz--\r\n"


@given(st.binary(max_size=300))
def test_file_that_a_client_encodes_is_found_unchanged(content: bytes) -> None:
    request = httpx.Request(
        "POST", "http://x", data={"other": "value"}, files={"data": ("a.png", content)}
    )
    form_type = request.headers["content-type"].encode()
    assert is_form(form_type)
    assert read_form_file(request.read(), form_type) == content


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (part(b"content") + END, b'Multipart/Form-Data; charset=utf-8; Boundary="xyz"'),
        (part(b"content", name=b"data") + END, TYPE),
        (part(b"content", more=b'; filename="a b; name=c.png"') + END, TYPE),
        (part(b"other", name=b'"more"') + part(b"content") + b"--xyz--", TYPE),
        (part(b"content") + part(b"other", name=b'"datas"') + END + b"epilogue", TYPE),
    ],
)
def test_forms_in_other_spellings_are_read(body: bytes, content_type: bytes) -> None:
    assert read_form_file(body, content_type) == b"content"


REFUSED = {
    "no boundary": (part(b"a") + END, b"multipart/form-data"),
    "another boundary": (part(b"a") + END, b"multipart/form-data; boundary=abc"),
    "no body": (b"", TYPE),
    "no part": (END, TYPE),
    "no end": (part(b"a"), TYPE),
    "cut short": (part(b"a" * 100)[:-50], TYPE),
    "text before the first part": (b"a" + part(b"a") + END, TYPE),
    "text behind a boundary": (part(b"a") + b"--xyzw\r\n" + part(b"a") + END, TYPE),
    "no field": (part(b"a", name=b'"body"') + END, TYPE),
    "no name": (part(b"a", name=b'""') + END, TYPE),
    "the field twice": (part(b"a") + part(b"b") + END, TYPE),
    "many parts": (part(b"b", name=b'"c"') * MOST_PARTS + part(b"a") + END, TYPE),
    "a long head": (part(b"a", more=b"; a=" + b"b" * 5000) + END, TYPE),
    "a head without end": (b"--xyz\r\n" + b"a" * 5000, TYPE),
}


@pytest.mark.parametrize(("body", "content_type"), REFUSED.values(), ids=REFUSED.keys())
def test_form_without_one_file_is_refused(body: bytes, content_type: bytes) -> None:
    with pytest.raises(ServiceError) as error:
        read_form_file(body, content_type)
    assert error.value.refusal is NO_FORM_FILE


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_H8_random_bytes_are_no_form(body: bytes, content_type: bytes) -> None:
    for form_type in (content_type, TYPE):
        with pytest.raises(ServiceError):
            read_form_file(b"--xyz\r\n" + body, form_type)


def test_H1_reading_a_form_copies_its_file_once() -> None:
    body = part(bytes(8 * 2**20)) + END
    tracemalloc.start()
    try:
        assert len(read_form_file(body, TYPE)) == 8 * 2**20
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 9 * 2**20


@pytest.mark.parametrize(
    "content_type", [b"", b"image/png", b"multipart/mixed; boundary=a", b"multipart/form-data2"]
)
def test_other_types_are_no_form(content_type: bytes) -> None:
    assert not is_form(content_type)
