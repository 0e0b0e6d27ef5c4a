"""A path that is no bundle is named, with what to do, in every command that takes a bundle."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving import make_bundle, make_settings
from stingy_server.cli.main import app
from stingy_server.models.loading import load_bundles
from stingy_server.models.no_bundle import explain_no_bundle


@pytest.mark.parametrize("name", ["w.pth", "w.PT", "my weights.safetensors", "net.onnx", "p.pt2"])
def test_file_of_a_network_is_to_be_packed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    sentence = explain_no_bundle(tmp_path / name) or ""
    expected = "expected a bundle, got the file of a network; make a bundle of it: "
    assert sentence.startswith(f"{expected}stingy bundle pack ")
    assert ("'" in sentence) == (" " in name)


@pytest.mark.parametrize("text", ["timm:resnet18", "torchvision:resnet18", "my_model.py:build"])
def test_source_that_is_no_path_is_to_be_packed(text: str) -> None:
    expected = "expected a bundle, got the name of a network; make a bundle of it: stingy bundle "
    assert explain_no_bundle(Path(text)) == f"{expected}pack {text}"


def test_folders_are_advised_by_what_is_in_them(tmp_path: Path) -> None:
    def explained(name: str) -> str:
        return explain_no_bundle(tmp_path / name) or ""

    (tmp_path / "empty").mkdir()
    assert explained("empty").startswith("expected a bundle, got a folder without model.json; ")
    assert explained("empty").endswith("a network with stingy bundle pack")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    assert "got a Hugging Face folder; make a bundle of it" in explained("hf")
    (tmp_path / "notes.txt").write_text("x")
    assert "got another file; make a bundle" in explained("notes.txt")
    assert explained("absent") == "expected a bundle, got nothing of this name"
    make_bundle(tmp_path / "all" / "cats")
    make_bundle(tmp_path / "all" / "dogs")
    inside = f"got a folder of bundles; give one, such as {tmp_path / 'all' / 'cats'}"
    assert explained("all") == f"expected a bundle, {inside}"
    for name in ("model.json", "weights.safetensors"):
        fix = f"got a file of one; give its folder: {tmp_path / 'all' / 'cats'}"
        assert explained(f"all/cats/{name}") == f"expected a bundle, {fix}"
    assert explain_no_bundle(tmp_path / "all" / "cats") is None
    assert explain_no_bundle(Path("x" * 5000)) is None


def test_start_and_commands_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"x")
    words = f"make a bundle of it: stingy bundle pack {tmp_path / 'w.pth'}"
    _, (fault,) = load_bundles(make_settings(tmp_path / "s", tmp_path / "w.pth"))
    assert fault.endswith(words)
    for command in (["bundle", "check"], ["bundle", "show"]):
        result = CliRunner().invoke(app, [*command, str(tmp_path / "w.pth")])
        assert (result.exit_code, words in result.stderr) == (2, True), command
