"""Images: two formats by content, checked before decoding; one tensor for one picture."""

import io
import struct
import threading
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from checks import assert_only_three_formats
from decoding import decode_alone, fit_alone
from serving import PREPROCESSING, png, random_images
from stingy_protection import Preprocessing
from stingy_server.codec import images
from stingy_server.codec.image_files import Size
from stingy_server.codec.images import Pixels
from stingy_server.errors import (
    BAD_IMAGE,
    DEEP_IMAGE,
    IMAGE_TOO_LARGE,
    PIXELS_TOO_MANY,
    SCALED_TOO_LARGE,
    UNSUPPORTED_IMAGE,
    Refusal,
    ServiceError,
)

pytestmark = pytest.mark.anyio
PICTURE = random_images(1)[0]
LIMIT = 256 * 256


async def read(data: bytes, preprocessing: Preprocessing = PREPROCESSING) -> Pixels:
    (pixels,) = await decode_alone([data], preprocessing, max_pixels=LIMIT)
    return np.asarray(pixels)


async def refusal_of(data: bytes) -> Refusal:
    with pytest.raises(ServiceError) as error:
        await read(data)
    return error.value.refusal


def limited(refusal: Refusal, limit: int) -> Refusal:
    """Return a refusal as it names a limit."""
    return ServiceError(refusal, limit=limit).refusal


def encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes = b"") -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size for which it has too few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


def png_with(more: bytes, *, at: int = 33) -> bytes:
    """Return a valid PNG with more bytes after its header, or at another place."""
    whole = png(PICTURE)
    return whole[:at] + more + whole[at:]


def many_scans(copies: int) -> bytes:
    """Return a progressive JPEG of 256 x 256 pixels with copies of its last scan."""
    buffer = io.BytesIO()
    Image.new("L", (256, 256)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + last * copies + whole[-2:]


def jpeg_with_comments(times: int) -> bytes:
    whole = encoded(Image.fromarray(PICTURE), "JPEG")
    return whole[:2] + b"\xff\xfe\x00\x02" * times + whole[2:]


MEGABYTE = zlib.compress(bytes(1_000_000), 9)
# Small files that keep a decoder busy, some for seconds. Each could be forty times as long.
SLOW_FILES = {
    "scans": many_scans(100_000),
    "segments": jpeg_with_comments(500_000),
    "padding": b"\xff\xd8" + b"\xff" * 1_000_000,
    "empty chunks": png_with(chunk(b"abCd") * 150_000),
    "empty data": png_with(chunk(b"IDAT") * 150_000),
    "data to come": png_with(chunk(b"IDAT") * 150_000, at=-12),
    "250 profiles": png_with(chunk(b"iCCP", b"k\0\0" + MEGABYTE) * 250),
    "10,000 comments": png_with(chunk(b"tEXt", b"k\0v") * 10_000),
}
# The bytes before the compressed part of a chunk: a name, and fields of its kind.
CHUNK_PREFIXES = {b"iCCP": b"k\0\0", b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0"}


async def test_P5_lossless_forms_of_a_picture_give_one_tensor() -> None:
    image = Image.fromarray(PICTURE)
    rgba = image.copy()
    rgba.putalpha(255)
    forms = [png(PICTURE), png(PICTURE, compress_level=0), png(PICTURE, optimize=True)]
    forms.append(encoded(rgba, "PNG"))
    for data in forms:
        assert np.array_equal(await read(data), PICTURE)


async def test_grey_and_palette_images_become_rgb() -> None:
    grey = Image.fromarray(PICTURE).convert("L")
    expected = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
    assert np.array_equal(await read(encoded(grey, "PNG")), expected)
    assert (await read(encoded(grey.convert("P"), "PNG"))).shape == (8, 8, 3)
    assert (await read(encoded(Image.fromarray(PICTURE), "JPEG"))).shape == (8, 8, 3)
    assert (await read(encoded(Image.new("CMYK", (8, 8)), "JPEG"))).shape == (8, 8, 3)


@pytest.mark.parametrize("shorter", [None, 12])
async def test_file_and_array_of_one_picture_are_resized_alike(shorter: int | None) -> None:
    preprocessing = Preprocessing((8, 10), (0.0,) * 3, (1.0,) * 3, shorter)
    for height, width in ((8, 10), (20, 30), (31, 9), (400, 17)):
        pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
        from_file = await read(png(pixels), preprocessing)
        assert from_file.shape == (8, 10, 3)
        assert np.array_equal(from_file, (await fit_alone(pixels[None], preprocessing))[0])


async def test_I1_only_three_formats_are_accepted() -> None:
    await assert_only_three_formats(read)


async def test_I2_huge_claimed_size_is_refused_before_decoding() -> None:
    start = time.process_time()
    assert await refusal_of(png_of_size(65_535, 65_535)) == limited(IMAGE_TOO_LARGE, LIMIT)
    assert await refusal_of(png_of_size(257, 256)) == limited(IMAGE_TOO_LARGE, LIMIT)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("name", SLOW_FILES)
async def test_I4_file_that_keeps_a_decoder_busy_is_refused_soon(name: str) -> None:
    start = time.process_time()
    assert await refusal_of(SLOW_FILES[name]) is BAD_IMAGE
    assert time.process_time() - start < 1.0
    assert (await read(png(PICTURE))).shape == (8, 8, 3)  # the next file is decoded


@pytest.mark.parametrize("at", [33, -12], ids=["before the pixels", "behind"])
@pytest.mark.parametrize("kind", CHUNK_PREFIXES)
async def test_I4_chunks_beside_the_pixels_are_not_inflated(kind: bytes, at: int) -> None:
    file = png_with(chunk(kind, CHUNK_PREFIXES[kind] + MEGABYTE) * 50, at=at)
    start = time.process_time()
    decoded = await decode_alone([file] * 20, PREPROCESSING, max_pixels=LIMIT)
    assert time.process_time() - start < 0.5  # a gigabyte takes seconds
    assert np.array_equal(decoded, np.stack([PICTURE] * 20))


async def test_I4_ordinary_large_files_are_within_the_limits() -> None:
    large = Image.fromarray(random_images(1, size=96)[0]).resize((2000, 1500))
    profile = bytes(range(256)) * 2000
    for options in ({"progressive": True}, {"progressive": True, "icc_profile": profile}):
        buffer = io.BytesIO()
        large.save(buffer, "JPEG", quality=95, exif=bytes(60_000), **options)
        (decoded,) = await decode_alone([buffer.getvalue()], PREPROCESSING, max_pixels=2**24)
        assert decoded.shape == (8, 8, 3)
    buffer = io.BytesIO()
    large.save(buffer, "PNG", icc_profile=profile, compress_level=0)
    (decoded,) = await decode_alone([buffer.getvalue()], PREPROCESSING, max_pixels=2**24)
    assert decoded.shape == (8, 8, 3)


async def test_I3_broken_pictures_are_refused() -> None:
    whole = png(PICTURE)
    assert await refusal_of(whole[: len(whole) // 2]) is BAD_IMAGE
    assert await refusal_of(whole[:-30] + bytes(30)) is BAD_IMAGE
    assert await refusal_of(png_of_size(0, 8)) is BAD_IMAGE
    assert await refusal_of(whole[:8]) is BAD_IMAGE
    assert await refusal_of(encoded(Image.fromarray(PICTURE), "JPEG")[:60]) is BAD_IMAGE
    sixteen_bit = Image.fromarray(np.full((8, 8), 40_000, np.uint16))
    assert await refusal_of(encoded(sixteen_bit, "PNG")) is DEEP_IMAGE


async def test_every_prefix_of_a_picture_is_refused() -> None:
    for whole in (png(PICTURE), encoded(Image.fromarray(PICTURE), "JPEG")):
        for length in range(1, len(whole) - 30, 7):
            assert await refusal_of(whole[:length]) in (BAD_IMAGE, UNSUPPORTED_IMAGE)


async def test_I2_pictures_of_a_request_share_one_pixel_limit() -> None:
    files = [png(PICTURE)] * 3  # 64 pixels each
    assert len(await decode_alone(files, PREPROCESSING, max_pixels=3 * 64)) == 3
    with pytest.raises(ServiceError) as error:
        await decode_alone(files, PREPROCESSING, max_pixels=3 * 64 - 1)
    assert error.value.refusal == limited(PIXELS_TOO_MANY, 3 * 64 - 1)
    assert "191 pixels in all images of a request" in error.value.refusal.message


@pytest.mark.parametrize("size", [(65_000, 1), (1, 65_000)])
async def test_I2_line_of_pixels_is_refused_before_scaling(size: tuple[int, int]) -> None:
    shorter = replace(PREPROCESSING, resize_shorter=256)
    line = encoded(Image.new("RGB", size), "PNG")
    with pytest.raises(ServiceError) as error:
        await decode_alone([line], shorter, max_pixels=2**24)
    assert error.value.refusal == limited(SCALED_TOO_LARGE, 64 * 64)
    with pytest.raises(ServiceError) as error:
        await fit_alone(np.zeros((1, *size, 3), np.uint8), shorter)
    assert error.value.refusal == limited(SCALED_TOO_LARGE, 64 * 64)


async def test_I2_scaled_pictures_of_a_request_share_one_limit() -> None:
    wide = Preprocessing((224, 224), (0.0,) * 3, (1.0,) * 3, 224)
    lines = np.zeros((256, 1, 48, 3), np.uint8)  # each becomes 224 x 10,752 pixels
    start = time.process_time()
    with pytest.raises(ServiceError) as error:
        await fit_alone(lines, wide)
    assert error.value.refusal == limited(SCALED_TOO_LARGE, 4 * 2**24)
    with pytest.raises(ServiceError) as error:
        await decode_alone([png(line) for line in lines], wide)
    assert error.value.refusal == limited(SCALED_TOO_LARGE, 4 * 2**24)
    assert time.process_time() - start < 0.5
    assert len(await fit_alone(lines[:20], wide)) == 20
    ordinary = np.zeros((256, 200, 266, 3), np.uint8)  # as large as a request may be
    assert (await fit_alone(ordinary, wide)).shape == (256, 224, 224, 3)


@pytest.mark.parametrize(("count", "inline"), [(1, True), (10, False)])
async def test_only_few_small_pictures_are_decoded_on_the_loop(
    monkeypatch: pytest.MonkeyPatch, count: int, inline: bool
) -> None:
    on_loop: list[bool] = []
    decoded = images._decode

    def record_thread(data: bytes, size: Size, preprocessing: Preprocessing) -> Pixels:
        on_loop.append(threading.current_thread() is threading.main_thread())
        return decoded(data, size, preprocessing)

    monkeypatch.setattr(images, "_decode", record_thread)
    monkeypatch.setattr(images, "INLINE_PIXELS", 1000)
    await decode_alone([png(PICTURE)] * count)
    assert on_loop == [inline] * count
