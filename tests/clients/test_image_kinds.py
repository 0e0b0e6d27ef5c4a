"""The pixels of an image file, counted by its head as Pillow counts them."""

import warnings
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_bytes import encoded, photo
from image_kinds import ACCEPTED
from stingy_clients.image_kinds import count_pixels

ROTATED = Image.Exif()
ROTATED[0x0112] = 6
PICTURES = ACCEPTED | {
    "JPEG of a phone": encoded(
        photo(640, 480), "JPEG", exif=ROTATED, icc_profile=bytes(70_000), comment=b"\xff\xc0" * 99
    ),
    "WebP of a phone": encoded(photo(640, 480), "WEBP", exif=ROTATED, icc_profile=bytes(3000)),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pixels_of_each_kind_are_counted_by_the_head(kind: str) -> None:
    data = PICTURES[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        width, height = Image.open(BytesIO(data)).size
    assert count_pixels(data) == width * height


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"])
def test_file_without_a_head_has_no_pixels(data: bytes) -> None:
    assert count_pixels(data) == 0


@settings(max_examples=200)
@given(st.sampled_from(sorted(ACCEPTED)), st.data())
def test_damaged_head_is_counted_without_an_error(kind: str, data: st.DataObject) -> None:
    whole = ACCEPTED[kind]
    at = data.draw(st.integers(0, min(len(whole), 700)))
    cut = data.draw(st.integers(0, 8))
    assert count_pixels(whole[:at] + data.draw(st.binary(max_size=8)) + whole[at + cut :]) >= 0
