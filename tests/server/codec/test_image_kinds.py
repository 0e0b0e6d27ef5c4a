"""One table of image kinds: server, client and folders read the same files to the same pixels."""

import resource
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from decoding import decode_alone
from image_bytes import GREY, RGB, encoded, photo
from image_kinds import ACCEPTED, REFUSED, deep_png, extension, lossless_bomb, webp, with_chunk
from stingy_attacker_eval.datasets.datasets import load_dataset
from stingy_attacker_eval.datasets.image_folder import read_image
from stingy_attacker_eval.errors import DatasetError
from stingy_clients.errors import BadInput
from stingy_clients.images import encode_image
from stingy_protection import Preprocessing
from stingy_server.codec.image_files import decode_file, read_size
from stingy_server.codec.orientation import TURNS
from stingy_server.errors import BAD_IMAGE, LOSSLESS_TOO_LARGE, ServiceError


def opened(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(BytesIO(data))


def decoded(data: bytes, *, exif_rotation: bool = False) -> np.ndarray:
    return np.asarray(decode_file(data, read_size(data), exif_rotation=exif_rotation))


@pytest.mark.parametrize("kind", ACCEPTED)
def test_B4_kind_that_is_read_has_pillows_pixels(tmp_path: Path, kind: str) -> None:
    data = ACCEPTED[kind]
    expected = np.asarray(opened(data).convert("RGB"))
    path = tmp_path / f"image{extension(data)}"
    path.write_bytes(data)
    assert np.array_equal(decoded(data), expected)
    assert encode_image(path) == encode_image(data) == data
    assert np.array_equal(encode_image(opened(data)), expected)
    assert np.array_equal(read_image(path), expected)


@pytest.mark.parametrize("kind", REFUSED)
def test_B4_kind_that_is_not_read_has_its_sentence(tmp_path: Path, kind: str) -> None:
    data, sentence = REFUSED[kind]
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(ServiceError) as server:
        decoded(data)
    assert sentence in server.value.refusal.message
    for source in (data, path):
        with pytest.raises(BadInput, match=sentence):
            encode_image(source)
    with pytest.raises(DatasetError, match=sentence):
        read_image(path)


@pytest.mark.parametrize("colour", [GREY, RGB])
def test_I3_pillow_image_of_16_bits_is_refused(colour: int) -> None:
    with pytest.raises(BadInput, match="8 bits a channel"):
        encode_image(opened(deep_png(colour)))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_I3_pillow_mode_of_more_than_8_bits_is_refused(mode: str) -> None:
    with pytest.raises(BadInput, match="8 bits a channel"):
        encode_image(Image.new(mode, (8, 8), 40_000))


WEBPS = {"lossy": webp(), "lossless": webp(lossless=True), "alpha": webp("RGBA", lossless=True)}


@pytest.mark.parametrize("kind", WEBPS)
@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.9, 0.98])
def test_I3_webp_that_ends_early_is_refused(kind: str, part: float) -> None:
    whole = WEBPS[kind]
    cut = whole[: int(len(whole) * part)]
    with pytest.raises(ServiceError) as error:
        decoded(cut)
    assert error.value.refusal is BAD_IMAGE
    # The same, with lengths that fit what is left.
    start = whole.find(b"VP8")
    content = cut[start + 8 :]
    content += b"\0" * (len(content) % 2)
    head = b"RIFF" + (len(content) + 12).to_bytes(4, "little") + b"WEBP" + whole[start : start + 4]
    with pytest.raises(ServiceError):
        decoded(head + len(content).to_bytes(4, "little") + content)


def test_I3_webp_without_the_end_of_its_last_chunk_is_refused() -> None:
    data = webp(exif=b"Exif\0\0" + bytes(100))
    assert decoded(data).shape == (190, 250, 3)
    with pytest.raises(ServiceError) as error:
        decoded(data[:-10])
    assert error.value.refusal is BAD_IMAGE


def test_I3_webp_with_a_canvas_of_another_size_is_refused() -> None:
    data = bytearray(webp(icc_profile=bytes(100)))
    assert data[12:16] == b"VP8X"
    data[24] ^= 1
    with pytest.raises(ServiceError):
        decoded(bytes(data))


def test_I4_webp_of_many_chunks_is_refused() -> None:
    data = webp()
    for _ in range(70):
        data = with_chunk(data, b"XMP ", b"")
    with pytest.raises(ServiceError):
        decoded(data)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_B5_image_is_turned_as_its_exif_says(form: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = turn
    data = encoded(photo(70, 50), form, exif=exif)
    plain = opened(data)
    assert np.array_equal(decoded(data), np.asarray(plain.convert("RGB")))
    turned = ImageOps.exif_transpose(plain).convert("RGB")
    assert np.array_equal(decoded(data, exif_rotation=True), np.asarray(turned))
    assert (turn in TURNS) == (turn > 1)


@pytest.mark.anyio
@pytest.mark.parametrize("rotated", [False, True])
async def test_B5_rotation_follows_the_manifest(rotated: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = photo(70, 50)
    data = encoded(image, "PNG", exif=exif)
    preprocessing = Preprocessing(
        size=(30, 20), mean=(0.0,) * 3, std=(1.0,) * 3, exif_rotation=rotated
    )
    (pixels,) = await decode_alone([data], preprocessing)
    source = ImageOps.exif_transpose(opened(data)) if rotated else image
    expected = np.asarray(source.resize((20, 30), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels, expected)


BROKEN = {
    "a bomb": encoded(Image.new("1", (20_000, 20_000)), "PNG"),
    "more pixels than the server reads": encoded(Image.new("1", (5_000, 5_000)), "PNG"),
    "half a PNG": encoded(photo(), "PNG")[:9000],
    "half a JPEG": encoded(photo(), "JPEG")[:3000],
    "the head of a PNG": encoded(photo(), "PNG")[:20],
    "the signature of a JPEG": b"\xff\xd8\xff\xe0",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_B4_broken_image_of_a_folder_is_a_fault(tmp_path: Path, kind: str) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            photo(20, 20).save(tmp_path / split / label / "a.png")
    (tmp_path / "train" / "cat" / "b.png").write_bytes(BROKEN[kind])
    with pytest.raises(DatasetError) as error:
        load_dataset(f"folder:{tmp_path}")
    (fault,) = error.value.faults
    assert "b.png" in fault


def test_I4_memory_of_a_lossless_webp_is_bounded() -> None:
    data = lossless_bomb(1024, 512)
    before = peak_memory()
    assert decoded(data).shape == (512, 1024, 3)
    assert peak_memory() - before < 250 * 2**20
    with pytest.raises(ServiceError) as error:
        decoded(lossless_bomb(1024, 516))
    assert error.value.refusal is LOSSLESS_TOO_LARGE


def peak_memory() -> int:
    """Return the largest memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
