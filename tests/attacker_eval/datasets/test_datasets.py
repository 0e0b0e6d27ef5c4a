"""Data sets are validated when loaded, and digits has a fixed split."""

import pickle
import struct
import urllib.request
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets  # type: ignore[import-untyped]

from audit_fakes import save_striped, striped
from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
from stingy_attacker_eval.errors import DatasetError
from stingy_attacker_eval.oracle.transfer_set import digest_images


def test_digits_has_the_promised_shapes() -> None:
    data = load_dataset("digits")
    assert (data.train_x.shape, data.test_x.shape) == ((1297, 8, 8, 3), (500, 8, 8, 3))
    assert [str(a.dtype) for a in (data.train_x, data.train_y)] == ["uint8", "int64"]
    assert data.train_x.max() == 255
    assert data.class_names == tuple("0123456789")
    np.testing.assert_array_equal(data.test_x[..., 0], data.test_x[..., 2])


def test_digits_split_never_changes() -> None:
    # Numbers of earlier reports are comparable only while this digest stays.
    assert digest_images(load_dataset("digits").test_x).startswith("15dc41a738008e7f")


def test_reduced_pixels_are_the_means_of_blocks_by_hand() -> None:
    images = np.zeros((1, 4, 4, 3), np.uint8)
    images[0, :2, :2, 0] = [[1, 2], [3, 4]]  # 2.5, which rounds to the even number
    images[0, :2, 2:, 1] = [[255, 255], [255, 254]]
    labels = np.zeros(1, np.int64)
    found = Dataset("d", images, labels, images, labels, ("a",)).reduce(2)
    for part in (found.train_x, found.test_x):
        assert part.dtype == np.uint8
        assert part[0, ..., 0].tolist() == [[2, 0], [0, 0]]
        assert part[0, ..., 1].tolist() == [[0, 255], [0, 0]]


def test_skipped_images_are_those_of_the_smaller_subset() -> None:
    data = load_dataset("digits")
    whole, rest = data.subset(30), data.subset(20, skip=10)
    np.testing.assert_array_equal(whole.train_x[10:], rest.train_x)
    assert np.bincount(rest.train_y).tolist() == [2] * 10
    assert len(data.subset(None, skip=1290).train_y) == 7
    with pytest.raises(DatasetError, match=r"expected 1\.\.7 training images, got 8"):
        data.subset(8, skip=1290)


def test_npz_file_is_read(tmp_path: Path) -> None:
    data = load_dataset(save_striped(tmp_path))
    assert (data.num_classes, data.image_size, len(data.test_y)) == (3, (8, 8), 48)


@pytest.mark.parametrize("name", ["cifar", "npz:", "folder:", ""])
def test_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(DatasetError, match=r'"digits", .*"npz:PATH" or "folder:PATH"'):
        load_dataset(name)


def test_missing_file_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no file at .*absent\.npz"):
        load_dataset(f"npz:{tmp_path / 'absent.npz'}")


def test_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.npz"
    path.write_text("hello")
    with pytest.raises(DatasetError, match="without pickles"):
        load_dataset(f"npz:{path}")


def test_all_missing_arrays_are_named_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", train_x=striped(4)[0])
    with pytest.raises(DatasetError) as caught:
        load_dataset(f"npz:{tmp_path / 'some.npz'}")
    assert len(caught.value.faults) == 3


def test_all_wrong_shapes_are_named_at_once(tmp_path: Path) -> None:
    images, labels = striped(4)
    arrays: dict[str, Any] = {
        "train_x": images.astype(np.float32),
        "train_y": labels[:3],
        "test_x": images[..., :1],
        "test_y": labels.astype(np.float64),
    }
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DatasetError) as caught:
        load_dataset(f"npz:{tmp_path / 'bad.npz'}")
    assert len(caught.value.faults) == 4


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the folder of downloaded data sets, without a network to fill it."""

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setenv("AUDIT_DATA", str(tmp_path))
    return tmp_path


def write_cifar(
    folder: Path, files: list[str], meta: str, document: dict[str, Any], labels: str
) -> list[list[str]]:
    """Write batches of two images in CIFAR's layout; return torchvision's names and digests."""
    folder.mkdir()
    listed = []
    for number, file in enumerate(files):
        pixels = np.full((2, 3, 32, 32), number, np.uint8)
        pixels[:, 0, 0, 1] = 200  # red of row 0, column 1
        batch = {"data": pixels.reshape(2, -1), labels: [number % 3, 1]}
        (folder / file).write_bytes(pickle.dumps(batch))
        listed.append([file, md5((folder / file).read_bytes()).hexdigest()])  # noqa: S324
    (folder / meta).write_bytes(pickle.dumps(document))
    return listed


def test_cifar10_is_read_as_torchvision_stores_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    folder = root / "cifar-10-batches-py"
    listed = write_cifar(folder, files, "batches.meta", {"label_names": list("abc")}, "labels")
    patch_digests(datasets.CIFAR10, folder, listed, monkeypatch)
    data = load_dataset("cifar10")
    assert (data.train_x.shape, data.test_x.shape) == ((10, 32, 32, 3), (2, 32, 32, 3))
    assert data.train_y.tolist() == [0, 1, 1, 1, 2, 1, 0, 1, 1, 1]
    assert data.test_x[0, 0, 1].tolist() == [200, 5, 5]
    assert data.class_names == ("a", "b", "c")


def test_cifar100_is_read_with_its_fine_labels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-100-python"
    names = {"fine_label_names": list("abcd")}
    listed = write_cifar(folder, ["train", "test"], "meta", names, "fine_labels")
    patch_digests(datasets.CIFAR100, folder, listed, monkeypatch)
    data = load_dataset("cifar100")
    assert (data.train_y.tolist(), data.test_y.tolist()) == ([0, 1], [1, 1])
    assert data.num_classes == 4


def patch_digests(
    source: Any, folder: Path, listed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replace torchvision's digests by those of the fake files."""
    monkeypatch.setattr(source, "train_list", listed[:-1])
    monkeypatch.setattr(source, "test_list", listed[-1:])
    meta = folder / source.meta["filename"]
    digest = md5(meta.read_bytes()).hexdigest()  # noqa: S324
    monkeypatch.setattr(source, "meta", source.meta | {"md5": digest})


def test_fashion_mnist_gets_three_equal_channels(root: Path) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 20), ("t10k", 10)):
        grey = np.arange(count, dtype=np.uint8)[:, None, None].repeat(784, 1).tobytes()
        images = struct.pack(">4i", 0x803, count, 28, 28) + grey
        labels = struct.pack(">2i", 0x801, count) + bytes(i % 10 for i in range(count))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    data = load_dataset("fashion_mnist")
    assert data.train_x.shape == (20, 28, 28, 3)
    assert data.train_x[7, 3, 4].tolist() == [7, 7, 7]
    assert data.test_y.tolist() == list(range(10))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_no_files_and_no_network_names_the_data_folder(name: str, root: Path) -> None:
    with pytest.raises(DatasetError, match=rf"expected {name} in {root}, or a network"):
        load_dataset(name)


def test_path_with_audit_data_is_resolved(root: Path) -> None:
    save_striped(root)
    assert load_dataset("npz:$AUDIT_DATA/striped.npz").name == "npz:$AUDIT_DATA/striped.npz"


def save_folder(path: Path, *, size: int = 8) -> str:
    for split, count in (("train", 3), ("test", 2)):
        for shade, name in enumerate(("dog", "cat")):
            folder = path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (size, 6), (shade, number, 0)).save(folder / f"{number}.png")
    return f"folder:{path}"


def test_folder_of_class_folders_is_read(tmp_path: Path) -> None:
    data = load_dataset(save_folder(tmp_path))
    assert data.class_names == ("cat", "dog")
    assert data.image_size == (6, 8)
    assert data.train_x[:, 0, 0, :2].tolist() == [[1, 0], [1, 1], [1, 2], [0, 0], [0, 1], [0, 2]]
    assert data.test_y.tolist() == [0, 0, 1, 1]


def test_folder_with_two_faulty_images_names_both(tmp_path: Path) -> None:
    name = save_folder(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "cat" / "odd.png")
    (tmp_path / "test" / "dog" / "broken.png").write_bytes(b"hello")
    with pytest.raises(DatasetError) as caught:
        load_dataset(name)
    first, second = caught.value.faults
    assert "train images of one size, got (6, 8) to (9, 9)" in first
    assert "broken.png" in second


def test_folder_without_split_or_with_other_classes_is_refused(tmp_path: Path) -> None:
    name = save_folder(tmp_path)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "cow")
    with pytest.raises(DatasetError, match="same classes"):
        load_dataset(name)
    with pytest.raises(DatasetError) as caught:
        load_dataset(f"folder:{tmp_path / 'absent'}")
    assert len(caught.value.faults) == 2


def numbered_dataset(labels: list[int]) -> Dataset:
    """Make a data set whose images carry their own row number."""
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels))
    y = np.array(labels, np.int64)
    return Dataset("numbered", images, y, images[:1], y[:1], ("a", "b", "c"))


@given(labels=st.lists(st.integers(0, 2), min_size=2, max_size=60), choice=st.data())
@settings(max_examples=40)
def test_subset_is_balanced_and_nested_in_larger_ones(
    labels: list[int], choice: st.DataObject
) -> None:
    data = numbered_dataset(labels)
    large = choice.draw(st.integers(1, len(labels)))
    small = choice.draw(st.integers(1, large))
    found = {size: data.subset(size) for size in (small, large)}
    numbers = {size: set(part.train_x[:, 0, 0, 0].tolist()) for size, part in found.items()}
    assert len(numbers[small]) == small
    assert numbers[small] <= numbers[large]
    had = np.bincount(data.train_y, minlength=3)
    taken = np.bincount(found[large].train_y, minlength=3)
    # A class has fewer images than the largest only if it has no more, or by one image.
    assert all(taken[k] == had[k] or taken[k] >= taken.max() - 1 for k in range(3))
    kept = found[small]
    assert all(labels[i] == y for i, y in zip(kept.train_x[:, 0, 0, 0], kept.train_y, strict=True))


@pytest.mark.parametrize("images", [0, 5])
def test_subset_of_zero_or_too_many_images_is_refused(images: int) -> None:
    with pytest.raises(DatasetError, match=r"1\.\.4 training images"):
        numbered_dataset([0, 1, 2, 0]).subset(images)


def test_subset_of_none_is_the_data_set_itself() -> None:
    data = numbered_dataset([0, 1, 2])
    assert data.subset(None) is data
