"""Image files: whole ones of every kind are read as Pillow reads them, others are refused."""

import io
import re
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_bytes import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    PNG_SIGNATURE,
    RGB,
    RGBA,
    chunk,
    cut_jpeg,
    encoded,
    jpeg,
    photo,
    png_rows,
    raw_png,
)
from stingy_server.codec.image_files import decode_file, read_size
from stingy_server.errors import BAD_IMAGE, DEEP_IMAGE, ServiceError


def decoded(data: bytes) -> Image.Image:
    return decode_file(data, read_size(data))


def assert_read_as_by_pillow(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's advice to keep the transparency
        reference = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(np.asarray(decoded(data)), np.asarray(reference))


def assert_bad(data: bytes) -> None:
    with pytest.raises(ServiceError) as error:
        decoded(data)
    assert error.value.refusal is BAD_IMAGE


JPEGS = {
    "baseline": jpeg(),
    "no subsampling": jpeg(subsampling=0),
    "progressive": jpeg(progressive=True),
    "restarts": jpeg(restart_marker_rows=1),
    "restart after each unit": jpeg(restart_marker_blocks=1),
    "progressive with restarts": jpeg(progressive=True, restart_marker_rows=1),
    "grey": jpeg(mode="L"),
    "grey progressive": jpeg(mode="L", progressive=True),
    "CMYK": jpeg(mode="CMYK"),
    "best": jpeg(quality=100, subsampling=0),
    "worst": jpeg(quality=1),
    "optimized": jpeg(optimize=True),
}
EXIF = Image.Exif()
EXIF[0x010E] = "a description"


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, -22])
def test_I3_jpeg_whose_coded_data_ends_early_is_refused(kind: str, part: float) -> None:
    whole = JPEGS[kind]
    assert_read_as_by_pillow(whole)
    length = len(whole) + int(part) if part < 0 else int(len(whole) * part)
    assert_bad(cut_jpeg(whole, length))
    assert_bad(whole[:length])


def test_I3_jpeg_without_an_interval_between_restarts_is_refused() -> None:
    whole = JPEGS["restarts"]
    first, second = (whole.find(bytes((0xFF, 0xD0 + number))) for number in (0, 1))
    assert_bad(whole[:first] + whole[second:])
    last = max(whole.rfind(bytes((0xFF, kind))) for kind in range(0xD0, 0xD8))
    assert_bad(cut_jpeg(whole, last))  # ends where an interval ends


def test_I3_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    whole = JPEGS["progressive"]
    scans = [found.start() for found in re.finditer(b"\xff\xda", whole)]
    assert len(scans) == 10
    for start in scans:
        assert_bad(cut_jpeg(whole, start))


@pytest.mark.parametrize("marker", [0xC3, 0xC9, 0xCA, 0xCD])
def test_I3_jpeg_that_is_not_huffman_coded_is_refused(marker: int) -> None:
    whole = JPEGS["baseline"]
    frame = whole.find(b"\xff\xc0")
    assert_bad(whole[: frame + 1] + bytes([marker]) + whole[frame + 2 :])


@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts", "grey"])
def test_I3_what_follows_the_end_of_a_jpeg_is_ignored(kind: str) -> None:
    whole = JPEGS[kind]
    video = np.random.default_rng(0).bytes(4_000_000) + b"\xff\xda" * 100 + whole
    assert np.array_equal(np.asarray(decoded(whole + video)), np.asarray(decoded(whole)))


def test_I3_jpeg_with_a_thumbnail_and_comments_is_read() -> None:
    thumbnail = encoded(photo(40, 30), "JPEG")
    options = {"exif": EXIF.tobytes() + thumbnail, "comment": b"\xff\xda\xff\xd9" * 99}
    with_segments = encoded(photo(), "JPEG", icc_profile=bytes(range(256)) * 600, **options)
    assert np.array_equal(np.asarray(decoded(with_segments)), np.asarray(decoded(jpeg())))
    assert_bad(cut_jpeg(with_segments, len(with_segments) - 1000))


def test_I3_jpeg_with_several_pictures_gives_the_first() -> None:
    pictures = encoded(photo(), "MPO", save_all=True, append_images=[photo(80, 60)])
    assert np.array_equal(np.asarray(decoded(pictures)), np.asarray(decoded(jpeg())))


@given(st.sampled_from(sorted(JPEGS)), st.integers(70, 10_000))
@settings(max_examples=60)
def test_I3_cut_jpeg_is_refused_or_lacks_64_bits(kind: str, missing: int) -> None:
    whole = JPEGS[kind]
    assert_bad(cut_jpeg(whole, max(9, len(whole) - 2 - missing)))


DEPTHS = [(GREY, 1), (GREY, 2), (GREY, 4), (GREY, 8), (RGB, 8), (GREY_ALPHA, 8), (RGBA, 8)]
DEPTHS += [(PALETTE, depth) for depth in (1, 2, 4, 8)]
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
COLOURS = chunk(b"PLTE", np.random.default_rng(1).bytes(3 * 256))


def png_file(
    width: int, height: int, depth: int, colour: int, *, interlace: int = 0, less: int = 0
) -> bytes:
    """Return a PNG of random pixels that has some bytes too few."""
    bits = depth * CHANNELS[colour]
    if interlace:
        rows = b""
        for left, top, across, down in (
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ):
            columns, lines = len(range(left, width, across)), len(range(top, height, down))
            rows += png_rows(columns, lines, bits) if columns else b""
    else:
        rows = png_rows(width, height, bits)
    between = b"" if colour != PALETTE else chunk(b"PLTE", COLOURS[8:][: 3 * 2**depth])
    rows = rows[: len(rows) - less] if less >= 0 else rows + bytes(-less)
    options = {"depth": depth, "colour": colour, "interlace": interlace}
    return raw_png(width, height, rows, between=between, **options)


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(("colour", "depth"), DEPTHS)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (33, 17)])
def test_I3_whole_png_of_each_kind_is_read(
    colour: int, depth: int, interlace: int, size: tuple[int, int]
) -> None:
    assert_read_as_by_pillow(png_file(*size, depth, colour, interlace=interlace))
    for less in (1, -1):
        assert_bad(png_file(*size, depth, colour, interlace=interlace, less=less))


@pytest.mark.parametrize("colour", [GREY, RGB, GREY_ALPHA, RGBA])
def test_I3_png_of_16_bits_a_channel_is_refused(colour: int) -> None:
    with pytest.raises(ServiceError) as error:
        decoded(png_file(8, 8, 16, colour))
    assert error.value.refusal is DEEP_IMAGE


PLAIN = encoded(photo(), "PNG")
FLAT = encoded(Image.new("RGB", (1500, 1500)), "PNG")


def with_chunks(*names: bytes, content: bytes = b"") -> bytes:
    return PLAIN[:33] + b"".join(chunk(name, content) for name in names) + PLAIN[33:]


BAD_PNGS = {
    "one row": raw_png(256, 256, png_rows(256, 1, 24)),
    "one row, and other bytes behind": raw_png(256, 256, png_rows(256, 1, 24))[:-24]
    + chunk(b"IDAT", bytes(99))
    + chunk(b"IEND"),
    "a row too many": raw_png(256, 256, png_rows(256, 257, 24)),
    "pixels without their checksum": raw_png(8, 8, b"")[:33]
    + chunk(b"IDAT", zlib.compress(png_rows(8, 8, 24))[:-4])
    + chunk(b"IEND"),
    "a gigabyte": raw_png(8, 8, bytes(2**30)),
    "no last 20 bytes": PLAIN[:-20],
    "no end": PLAIN[:-12],
    "a cut end": PLAIN[:-1],
    "a damaged checksum of the end": PLAIN[:-1] + b"\0",
    "a damaged pixel": PLAIN[:200] + bytes([PLAIN[200] ^ 1]) + PLAIN[201:],
    "a damaged comment": with_chunks(b"tEXt").replace(b"tEXt", b"tExt"),
    "no palette": raw_png(8, 8, png_rows(8, 8, 8), colour=PALETTE),
    "a palette of 2 bytes": raw_png(
        8, 8, png_rows(8, 8, 8), colour=PALETTE, between=chunk(b"PLTE", b"ab")
    ),
    "an unknown filter": raw_png(8, 8, b"\x05" + bytes(24) + png_rows(8, 7, 24)),
    "an unknown interlacing": raw_png(8, 8, png_rows(8, 8, 24), interlace=2),
    "an unknown colour": raw_png(8, 8, png_rows(8, 8, 24), colour=5),
    "3 bits": raw_png(8, 8, png_rows(8, 8, 3), colour=GREY, depth=3),
    "another chunk first": PNG_SIGNATURE + chunk(b"tEXt", b"k\0v") + PLAIN[8:],
    "pixels in two places": raw_png(8, 8, png_rows(8, 8, 24))[:-12]
    + chunk(b"tEXt", b"k\0v")
    + chunk(b"IDAT")
    + chunk(b"IEND"),
    "129 comments": with_chunks(*[b"tEXt"] * 129),
    "20,000 empty pixel chunks": with_chunks(*[b"IDAT"] * 20_000),
}


@pytest.mark.parametrize("kind", BAD_PNGS)
def test_I3_damaged_or_incomplete_png_is_refused(kind: str) -> None:
    assert_bad(BAD_PNGS[kind])


GOOD_PNGS = {
    "plain": PLAIN,
    "one colour": FLAT,
    "bytes behind the end": PLAIN + bytes(1000),
    "many chunks": with_chunks(*[b"tEXt"] * 100),
    "transparent palette": encoded(photo(mode="P"), "PNG", transparency=bytes(range(256))),
    "transparent colour": encoded(photo(), "PNG", transparency=(1, 2, 3)),
    "stored": encoded(photo(), "PNG", compress_level=0),
}


@pytest.mark.parametrize("kind", GOOD_PNGS)
def test_I3_whole_png_is_read_as_pillow_reads_it(kind: str) -> None:
    assert_read_as_by_pillow(GOOD_PNGS[kind])


@pytest.mark.parametrize("default_image", [False, True])
def test_I3_animated_png_gives_its_default_image(default_image: bool) -> None:
    frames = [photo(mode="RGB").rotate(90 * turn) for turn in range(1, 40)]
    options = {"save_all": True, "append_images": frames, "default_image": default_image}
    animated = encoded(photo(), "PNG", **options)
    assert animated.count(b"fdAT") >= 38
    assert np.array_equal(np.asarray(decoded(animated)), np.asarray(photo()))


def test_I3_pixels_in_one_large_chunk_take_linear_time() -> None:
    side = 2000
    rows = zlib.compress(png_rows(side, side, 24), 0)
    large = raw_png(side, side, b"")[:33] + chunk(b"IDAT", rows) + chunk(b"IEND")
    assert decoded(large).size == (side, side)


def test_I4_size_of_a_jpeg_is_read_without_its_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(data: bytes, start: int) -> tuple[int, int]:
        raise AssertionError("the end of a scan is searched for")

    monkeypatch.setattr("stingy_server.codec.jpeg._end_of_scan", search)
    scan_first = b"\xff\xd8\xff\xda\0\2" + b"\xff\xd0" * 2**18 + b"\xff\xd9"
    with pytest.raises(ServiceError) as error:
        read_size(scan_first)
    assert error.value.refusal is BAD_IMAGE
