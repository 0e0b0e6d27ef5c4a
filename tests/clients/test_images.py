"""Images: the kinds that are accepted, the refusals before sending, and the batches."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stingy_clients import BadInput
from stingy_clients import images as module
from stingy_clients.images import (
    Payload,
    check_pixel_batch,
    encode_image,
    encode_images,
    split_batches,
)

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"


def zeros(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize("data", [PNG + b"rest", JPEG + b"rest"])
def test_files_are_sent_unchanged(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    assert encode_image(path) == encode_image(str(path)) == encode_image(data) == data


@pytest.mark.parametrize("data", [b"", b"GIF89a", PNG[:-1], JPEG[:-1], b"x" + PNG])
def test_a_file_that_is_no_jpeg_png_or_webp_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"image\.png: expected a JPEG, PNG or WebP"):
        encode_image(path)
    with pytest.raises(BadInput, match="bytes: expected a JPEG, PNG or WebP"):
        encode_image(data)


def test_an_unreadable_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"got .*none\.png: No such file"):
        encode_image(tmp_path / "none.png")
    with pytest.raises(BadInput, match="directory"):
        encode_image(tmp_path)
    with pytest.raises(BadInput, match="not a path"):
        encode_image("a\0b")


def test_grey_arrays_become_three_equal_channels() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    found = encode_image(grey)
    assert isinstance(found, np.ndarray)
    assert found.shape == (2, 3, 3)
    assert all((found[:, :, channel] == grey).all() for channel in range(3))


def test_pillow_images_become_rgb_pixels() -> None:
    found = encode_image(Image.new("RGBA", (3, 2), (10, 20, 30, 255)))
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[10, 20, 30]] * 3] * 2


def test_a_truncated_pillow_image_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(BadInput, match="cannot be read"):
        encode_image(image)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (zeros(4, 4, 3, dtype="float32"), "got float32: multiply values in 0..1 by 255"),
        (zeros(4, 4, 3, dtype="int64"), "got int64$"),
        (zeros(2, 4, 4, 3), "use predict_batch"),
        (zeros(3, 4, 4), r"got the shape \[3, 4, 4\]"),
        (zeros(4, 4, 4), r"got the shape \[4, 4, 4\]"),
        (zeros(0, 4, 3), r"got the shape \[0, 4, 3\]"),
        (zeros(4, 0), r"got the shape \[4, 0\]"),
        (zeros(4), r"got the shape \[4\]"),
        (np.uint8(3), "got uint8"),
        (None, "got NoneType"),
        (["cat.png"], "got list"),
        (3, "got int"),
    ],
)
def test_other_kinds_of_image_are_refused_with_a_reason(image: object, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        encode_image(image)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ("cat.png", "expected a list of images .* got str"),
        (Path("cat.png"), "expected a list of images"),
        (PNG, "expected a list of images .* got bytes"),
        (Image.new("RGB", (2, 2)), "expected a list of images .* got Image"),
        (3, "expected a list of images .* got int"),
        (zeros(4, 4, 3), r"expected a uint8 array \[B, H, W, 3\], got the shape \[4, 4, 3\]"),
        (zeros(2, 4, 4, 3, dtype="float64"), "multiply values in 0..1 by 255"),
        (zeros(2, 4, 4, 1), r"got the shape \[2, 4, 4, 1\]"),
        (zeros(2, 0, 4, 3), r"got the shape \[2, 0, 4, 3\]"),
    ],
)
def test_a_single_image_is_refused_as_a_batch(images: object, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        encode_images(images)


def test_a_list_is_refused_as_a_tensor() -> None:
    with pytest.raises(BadInput, match="got list"):
        check_pixel_batch([[1]])


FILES = st.binary(max_size=4).map(lambda rest: PNG + rest)
PIXELS = st.tuples(st.integers(1, 2), st.integers(0, 255)).map(
    lambda made: np.full((made[0], 2, 3), made[1], np.uint8)
)


@settings(max_examples=100)
@given(st.lists(FILES | PIXELS, max_size=12), st.integers(1, 4))
def test_batches_contain_every_image_once_and_in_order(items: list[Payload], most: int) -> None:
    made = list(split_batches(items, most=most))
    assert all(1 <= len(batch) <= most for batch in made)
    flat = [image for batch in made for image in batch]
    assert len(flat) == len(items)
    for sent, given_ in zip(flat, items, strict=True):
        assert type(sent) is type(given_)
        assert np.array_equal(sent, given_)


def test_neighbours_of_one_kind_share_a_batch() -> None:
    items: list[Payload] = [PNG, PNG, zeros(2, 2, 3), zeros(2, 2, 3), zeros(3, 2, 3), PNG]
    assert [len(batch) for batch in split_batches(items, most=9)] == [2, 2, 1, 1]


def test_a_batch_stays_below_the_servers_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_BYTES", 108)
    array = zeros(10, 4, 4, 3)  # 48 bytes an image
    assert [len(batch) for batch in split_batches(array, most=256)] == [2] * 5
    assert [len(batch) for batch in split_batches(list(array), most=256)] == [2] * 5
    # A file takes 8 bytes of the PNG's signature and 4 of its length more.
    files: list[Payload] = [PNG + bytes(size) for size in (42, 42, 1, 200, 1)]
    assert [len(batch) for batch in split_batches(files, most=256)] == [2, 1, 1, 1]
    assert [len(batch) for batch in split_batches(zeros(2, 9, 9, 3), most=256)] == [1, 1]


def test_an_empty_array_has_no_batches() -> None:
    assert list(split_batches(encode_images(zeros(0, 4, 4, 3)), most=3)) == []


def png_of(width: int, height: int) -> bytes:
    """Return the head of a PNG, which declares its size."""
    return PNG + b"\0\0\0\rIHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"


def test_a_batch_stays_below_the_pixels_of_a_request() -> None:
    small, large = png_of(10, 10), png_of(30, 10)
    files: list[Payload] = [*[small] * 5, large, small, small]
    made = [len(batch) for batch in split_batches(files, most=9, pixels=250)]
    assert made == [2, 2, 1, 1, 2]
    assert [len(batch) for batch in split_batches(files, most=9, pixels=None)] == [8]
    arrays: list[Payload] = [zeros(10, 10, 3)] * 5  # arrays are not decoded
    assert [len(batch) for batch in split_batches(arrays, most=9, pixels=250)] == [5]


def test_a_batch_stays_below_the_bytes_that_a_server_names() -> None:
    array = zeros(10, 4, 4, 3)  # 48 bytes an image
    assert [len(batch) for batch in split_batches(array, most=256, nbytes=150)] == [3, 3, 3, 1]
    files: list[Payload] = [PNG + bytes(38)] * 4  # 50 bytes an image
    assert [len(batch) for batch in split_batches(files, most=256, nbytes=150)] == [3, 1]
    assert [len(batch) for batch in split_batches(files, most=256, nbytes=0)] == [1] * 4
