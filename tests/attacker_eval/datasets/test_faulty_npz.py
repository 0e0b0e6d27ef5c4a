"""Faulty npz files: each is named with what was expected, whatever is wrong with it."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from audit_fakes import save_striped
from stingy_attacker_eval.datasets.datasets import load_dataset
from stingy_attacker_eval.errors import DatasetError


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def write(path: Path, content: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, part in content.items():
            file.writestr(name, part)


def npy(array: NDArray[np.generic] | np.generic) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def spoil(path: Path, kind: str) -> None:
    good = members(path)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "one array":
        path.write_bytes(npy(np.zeros(3)))
    elif kind == "members that are no arrays":
        write(path, dict.fromkeys(good, b"text"))
    elif kind == "a huge shape":
        large = good["train_x.npy"].replace(b"(96, 8, 8, 3)", b"(9999999999,)")
        write(path, good | {"train_x.npy": large})
    elif kind == "a header cut off":
        broken = good["train_x.npy"].replace(b"'shape': (", b"'shape'((((")
        write(path, good | {"train_x.npy": broken})
    else:
        write(path, good, method=zipfile.ZIP_LZMA)
        content = bytearray(path.read_bytes())
        content[60:90] = bytes(30)
        path.write_bytes(content)


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "one array",
        "members that are no arrays",
        "a huge shape",
        "a header cut off",
        "a damaged stream",
    ],
)
def test_damaged_file_is_named(tmp_path: Path, kind: str) -> None:
    name = save_striped(tmp_path)
    path = Path(name.removeprefix("npz:"))
    spoil(path, kind)
    with pytest.raises(DatasetError, match="expected an npz file") as caught:
        load_dataset(name)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("array", ["train_x", "test_x", "train_y"])
def test_array_without_a_dimension_is_named(tmp_path: Path, array: str) -> None:
    name = save_striped(tmp_path)
    path = Path(name.removeprefix("npz:"))
    write(path, members(path) | {f"{array}.npy": npy(np.uint8(1))})
    with pytest.raises(DatasetError, match=f"expected {array} as"):
        load_dataset(name)


def test_label_beyond_all_classes_is_refused_at_once(tmp_path: Path) -> None:
    name = save_striped(tmp_path)
    path = Path(name.removeprefix("npz:"))
    content = members(path)
    labels = np.load(io.BytesIO(content["train_y.npy"]))
    labels[0] = 10**9
    content.pop("class_names.npy", None)
    write(path, content | {"train_y.npy": npy(labels)})
    with pytest.raises(DatasetError, match="expected labels below 100000, got 1000000000"):
        load_dataset(name)


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["a", "a", "b"], "expected each class name once, got 'a' more than once"),
        (["a", " ", "b"], "expected a name for each class, got an empty one in class_names"),
    ],
)
def test_class_names_that_no_bundle_can_have_are_named(
    tmp_path: Path, names: list[str], fault: str
) -> None:
    name = save_striped(tmp_path)
    path = Path(name.removeprefix("npz:"))
    write(path, members(path) | {"class_names.npy": npy(np.array(names))})
    with pytest.raises(DatasetError) as caught:
        load_dataset(name)
    assert caught.value.faults == (fault,)
