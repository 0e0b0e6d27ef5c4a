"""Files and folders that are no source: each kind has its name and what to do."""

from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import ones, save

from packing import pack
from stingy_server.importers.kinds import FOREIGN, explain_source, recognise

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def test_content_of_files_of_weights_is_recognised(tmp_path: Path) -> None:
    save({"a": ones(2)}, tmp_path / "a")
    save({"a": ones(2)}, tmp_path / "b", _use_new_zipfile_serialization=False)
    save_file({"a": ones(2)}, tmp_path / "c")
    (tmp_path / "d").write_bytes(POINTER)
    (tmp_path / "e").write_bytes(b"<html>")
    (tmp_path / "f").write_bytes(b"")
    found = [recognise(tmp_path / name) for name in "abcdef"]
    assert found == ["torch", "torch", "safetensors", "pointer", "other", "other"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("w.pth", "w.pth: expected a file of torch.save, got a safetensors file; name it w.safe"),
        ("w.safetensors", "w.safetensors: expected a safetensors file, got one of torch.save"),
    ],
)
def test_file_with_the_name_of_another_kind_is_named(tmp_path: Path, name: str, words: str) -> None:
    if name == "w.pth":
        save_file({"a": ones(2)}, tmp_path / name)
    else:
        save({"a": ones(2)}, tmp_path / name)
    result = pack(tmp_path / name, "--arch", "torchvision:resnet18", "--labels", "a,b")
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
def test_pointer_of_git_lfs_is_to_be_fetched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(POINTER)
    result = pack(tmp_path / name, "--arch", "torchvision:resnet18", "--labels", "a,b")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"{name}: expected a model's file, got a pointer of Git LFS to it" in result.stderr


@pytest.mark.parametrize("ending", FOREIGN)
def test_file_of_another_framework_is_named_with_what_to_do(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"m{ending}").write_bytes(b"x")
    kind, _ = FOREIGN[ending]
    explained = explain_source(str(tmp_path / f"m{ending}"))
    assert explained.startswith(f"{kind}; ")
    assert "FILE" not in explained
    (tmp_path / f"m{ending}").unlink()
    (tmp_path / f"m{ending}").mkdir()
    if ending.count(".") == 1:
        assert explain_source(str(tmp_path / f"m{ending}")).startswith(f"{kind}; ")


def test_file_of_another_framework_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "m.h5").write_bytes(b"x")
    result = pack(tmp_path / "m.h5", "--out", tmp_path / "out")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "expected a network's file or folder, got a Keras model; write it" in result.stderr
    assert not (tmp_path / "out").exists()


def test_folders_and_names_are_explained(tmp_path: Path) -> None:
    def explained(name: str) -> str:
        return explain_source(str(tmp_path / name))

    (tmp_path / "tf").mkdir()
    (tmp_path / "tf" / "saved_model.pb").write_bytes(b"x")
    assert explained("tf").startswith("a TensorFlow SavedModel; write it as ONNX with python -m tf")
    assert explained("tf/saved_model.pb").endswith(f"give its folder: {tmp_path / 'tf'}")
    (tmp_path / "net").mkdir()
    assert explained("net") == "a folder without config.json"
    (tmp_path / "net" / "m.onnx").write_bytes(b"x")
    assert explained("net").endswith(f"give the file in it: {tmp_path / 'net' / 'm.onnx'}")
    (tmp_path / "my.py").write_text("")
    assert explained("my.py").endswith("my.py:FUNCTION")
    (tmp_path / "hf").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "hf" / name).write_text("{}")
        assert explained(f"hf/{name}").endswith(f"give the folder: {tmp_path / 'hf'}")
    assert explained("absent") == "nothing of this name"
    hub = explain_source("google/vit-base-patch16-224")
    assert "nothing is fetched" in hub
    assert "hf download google/vit-base-patch16-224" in hub
    assert explain_source("https://example.org/w.pth").startswith("a URL; nothing is fetched")
    assert "got a URL; nothing is fetched" in pack("https://example.org/w.pth").stderr
    assert explain_source("x" * 5000) == "nothing of this name"
