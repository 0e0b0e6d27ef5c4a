"""PNGs of a folder that are damaged, in ways that Pillow does not report."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from image_bytes import encoded, photo
from image_kinds import ACCEPTED
from stingy_attacker_eval.datasets.datasets import load_dataset
from stingy_attacker_eval.datasets.image_folder import read_image
from stingy_attacker_eval.datasets.png_damage import check_png
from stingy_attacker_eval.errors import DatasetError

WHOLE = encoded(photo(90, 70), "PNG")
PIXELS = WHOLE.index(b"IDAT") - 4
END = WHOLE.index(b"IEND") - 4


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def with_pixels(*contents: bytes, between: bytes = b"") -> bytes:
    """Return the picture with other chunks of pixels."""
    return WHOLE[:PIXELS] + between.join(chunk(b"IDAT", each) for each in contents) + WHOLE[END:]


def flipped(at: int) -> bytes:
    """Return the picture with one changed bit."""
    return WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]


CODED = zlib.compress(zlib.decompress(WHOLE[PIXELS + 8 : END - 4]))
DAMAGED: dict[str, Callable[[], bytes]] = {
    "no end": lambda: WHOLE[:END],
    "half an end": lambda: WHOLE[: END + 6],
    "damaged end": lambda: flipped(END + 9),
    "damaged checksum of the pixels": lambda: flipped(END - 1),
    "damaged pixels": lambda: flipped(END - 9),
    "damaged head": lambda: flipped(32),
    "fewer rows": lambda: with_pixels(zlib.compress(zlib.decompress(CODED)[: 271 * 40])),
    "more rows": lambda: with_pixels(zlib.compress(zlib.decompress(CODED) + bytes(271))),
    "many more rows": lambda: with_pixels(zlib.compress(zlib.decompress(CODED) + bytes(10**7))),
    "pixels cut": lambda: with_pixels(CODED[: len(CODED) // 2]),
    "pixels without their checksum": lambda: with_pixels(CODED[:-4]),
    "no pixels": lambda: WHOLE[:PIXELS] + WHOLE[END:],
    "others between the pixels": lambda: with_pixels(
        CODED[:2000], CODED[2000:], between=chunk(b"tEXt", b"k\0v")
    ),
    "length beyond the file": lambda: WHOLE[:PIXELS] + b"\x7f\xff\xff\xff" + WHOLE[PIXELS + 4 :],
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_B4_damaged_png_of_a_folder_names_the_file(tmp_path: Path, kind: str) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "a.png").write_bytes(WHOLE)
    assert load_dataset(f"folder:{tmp_path}").image_size == (70, 90)
    (tmp_path / "test" / "dog" / "b.png").write_bytes(DAMAGED[kind]())
    with pytest.raises(DatasetError) as error:
        load_dataset(f"folder:{tmp_path}")
    (fault,) = error.value.faults
    assert fault.endswith("test/dog/b.png: expected an image that decodes, got a broken one")


@pytest.mark.parametrize("kind", [kind for kind in ACCEPTED if "PNG" in kind])
def test_whole_png_of_each_kind_is_whole(kind: str) -> None:
    check_png(ACCEPTED[kind])


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 5), (64, 33)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_png_in_several_chunks_is_whole(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    image = photo(*size, mode=mode)
    data = encoded(image, "PNG")
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    coded = data[start + 8 : end - 4]
    parts = (coded[:1], b"", coded[1:])
    split = data[:start] + b"".join(chunk(b"IDAT", part) for part in parts) + data[end:]
    path = tmp_path / "a.png"
    path.write_bytes(split + b"what follows the end")
    assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 5), (64, 33)])
def test_rows_of_an_interlaced_png_are_counted(size: tuple[int, int]) -> None:
    width, height = size
    rows = b"".join(
        bytes(1 + len(range(left, width, across)))
        for left, top, across, down in (
            *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
            *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
        )
        for _ in range(top, height, down)
        if len(range(left, width, across))
    )
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1))
    end = chunk(b"IEND", b"")
    data = WHOLE[:8] + head + chunk(b"IDAT", zlib.compress(rows)) + end
    check_png(data)
    with pytest.raises(ValueError, match="as many pixels"):
        check_png(WHOLE[:8] + head + chunk(b"IDAT", zlib.compress(rows + b"\0")) + end)
