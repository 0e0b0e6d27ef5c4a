"""Data sets come in checked, and digits is always the same split."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.attacker_eval.fakes import save_striped, striped

from stingy_attacker_eval.data import load_dataset
from stingy_attacker_eval.errors import DatasetError
from stingy_attacker_eval.transfer import digest_images


def test_digits_has_the_promised_shapes() -> None:
    data = load_dataset("digits")
    assert (data.train_x.shape, data.test_x.shape) == ((1297, 8, 8, 3), (500, 8, 8, 3))
    assert [str(a.dtype) for a in (data.train_x, data.train_y)] == ["uint8", "int64"]
    assert data.train_x.max() == 255
    assert data.class_names == tuple("0123456789")
    np.testing.assert_array_equal(data.test_x[..., 0], data.test_x[..., 2])


def test_digits_split_never_changes() -> None:
    # Numbers in old reports are comparable only as long as this stays.
    assert digest_images(load_dataset("digits").test_x).startswith("15dc41a738008e7f")


def test_an_npz_file_is_read(tmp_path: Path) -> None:
    data = load_dataset(save_striped(tmp_path))
    assert (data.num_classes, data.image_size, len(data.test_y)) == (3, (8, 8), 48)


@pytest.mark.parametrize("name", ["cifar", "npz:", ""])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(DatasetError, match='"digits" or "npz:PATH"'):
        load_dataset(name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no file at .*absent\.npz"):
        load_dataset(f"npz:{tmp_path / 'absent.npz'}")


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
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
