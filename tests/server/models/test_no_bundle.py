"""A path that is no bundle says what to do with it, in every command that takes a bundle."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving import make_bundle, make_settings
from stingy_server.cli.main import app
from stingy_server.models.loading import load_bundles
from stingy_server.models.no_bundle import suggest_pack


@pytest.mark.parametrize("name", ["w.pth", "w.PT", "my weights.safetensors", "net.onnx", "p.pt2"])
def test_file_of_a_network_is_to_be_packed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert suggest_pack(tmp_path / name).startswith("; make a bundle of it: stingy bundle pack ")
    assert ("'" in suggest_pack(tmp_path / name)) == (" " in name)


@pytest.mark.parametrize("text", ["timm:resnet18", "torchvision:resnet18", "my_model.py:build"])
def test_source_that_is_no_path_is_to_be_packed(text: str) -> None:
    assert suggest_pack(Path(text)) == f"; make a bundle of it: stingy bundle pack {text}"


def test_folders_are_advised_by_what_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert suggest_pack(tmp_path / "empty").endswith("a network with stingy bundle pack")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    assert "make a bundle of it" in suggest_pack(tmp_path / "hf")
    assert "nothing of this name" in suggest_pack(tmp_path / "absent")
    make_bundle(tmp_path / "all" / "cats")
    make_bundle(tmp_path / "all" / "dogs")
    inside = f"; there are bundles in it, such as {tmp_path / 'all' / 'cats'}"
    assert suggest_pack(tmp_path / "all") == inside
    assert suggest_pack(tmp_path / "all" / "cats") == ""
    assert suggest_pack(Path("x" * 5000)) == ""


def test_start_and_commands_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"x")
    words = f"make a bundle of it: stingy bundle pack {tmp_path / 'w.pth'}"
    _, (fault,) = load_bundles(make_settings(tmp_path / "s", tmp_path / "w.pth"))
    assert fault.endswith(words)
    for command in (["bundle", "check"], ["bundle", "show"]):
        result = CliRunner().invoke(app, [*command, str(tmp_path / "w.pth")])
        assert (result.exit_code, words in result.stderr) == (2, True), command
