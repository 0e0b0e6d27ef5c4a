"""`stingy bundle pack`: what it prints, and that a failure leaves nothing."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torchvision import models  # type: ignore[import-untyped]
from typer.testing import CliRunner

import onnx_files
from packing import assert_failed_pack_writes_nothing, check, pack, packed
from stingy_protection import Preprocessing, read_manifest, write_bundle
from stingy_server.cli.main import app
from stingy_server.importers import pack as packing
from stingy_server.importers.found import NotImportable
from stingy_server.importers.pack import model_name
from stingy_server.importers.preprocessing import (
    describe_preprocessing,
    parse_mean_and_std,
    parse_size,
)

NAME = "shufflenet_v2_x0_5"
SOURCE = ("--arch", f"torchvision:{NAME}", "--labels", "cat,dog,bird")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "Pets v1.pth"
    torch.save(models.get_model(NAME, weights=None, num_classes=3).state_dict(), path)
    return path


def test_printed_lines_say_what_was_found_and_what_leaves(weights: Path, tmp_path: Path) -> None:
    printed = packed(weights, *SOURCE, "--out", tmp_path / "pets", "--policy", "stingy:n=2")
    assert printed.splitlines() == [
        f"network      torchvision:{NAME} with the weights of Pets v1.pth",
        "classes      3: cat, dog, bird",
        "images       224 x 224 RGB, cut from the middle of an image whose shorter side is 256, "
        "bilinear; mean and std of imagenet",
        "rows         logits",
        "note         this policy hides nothing, so a server refuses it; with 3 classes scores "
        "tell the row; use the policy label, which sends none",
        "tried        alone, in a pair and in a batch of up to 64, twice: same answers",
        "what leaves  stingy: top 2 of 3 classes, log_prob at 3 decimals",
        f"next         stingy serve {tmp_path / 'pets'}",
    ]
    assert read_manifest(tmp_path / "pets").name == "pets-v1"


def test_options_replace_what_the_source_says(weights: Path, tmp_path: Path) -> None:
    packed(
        *(weights, *SOURCE, "--out", tmp_path / "out", "--size", "96x128", "--mean", "cifar10"),
        *("--interpolation", "bicubic", "--outputs", "logits", "--name", "x", "--version", "2"),
    )
    found = read_manifest(tmp_path / "out").preprocessing
    assert found.size == (96, 128)
    assert found.resize_shorter is None
    assert found.mean == (0.4914, 0.4822, 0.4465)
    assert found.interpolation == "bicubic"


def test_default_folder_is_named_after_the_model(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "stingy serve bundles/pets-v1" in packed(weights, *SOURCE)
    assert read_manifest("bundles/pets-v1").classes == ("cat", "dog", "bird")


def test_bundle_has_the_permissions_of_other_new_files(weights: Path, tmp_path: Path) -> None:
    packed(weights, *SOURCE, "--out", tmp_path / "a" / "b")
    os.mkdir(tmp_path / "plain")
    assert (tmp_path / "a" / "b").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_B9_folder_with_content_is_kept_and_an_empty_one_filled(
    weights: Path, tmp_path: Path
) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    (full / "notes").write_text("mine")
    result = pack(weights, *SOURCE, "--out", full)
    assert result.exit_code == 2
    assert "--out: expected a new folder, got" in result.stderr
    assert [path.name for path in full.iterdir()] == ["notes"]
    packed(weights, *SOURCE, "--out", empty)
    assert read_manifest(empty).classes == ("cat", "dog", "bird")
    second = pack(weights, *SOURCE, "--out", empty)
    assert second.exit_code == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--policy", "stingy:n=9"), "policy: "),
        (("--policy", "nothing"), "policy: "),
        (("--name", "No Name"), "expected name to be [a-z0-9]"),
        (("--version", "1 0"), "expected version to be one word"),
        (("--size", "0"), "expected preprocessing.size to be [height, width]"),
        (("--size", "12y"), "--size: expected 224 or HEIGHTxWIDTH"),
        (("--mean", "0.5"), "--std: expected numbers beside those of --mean"),
        (("--std", "0.5"), "--mean: expected a value beside --std"),
        (("--mean", "a,b", "--std", "1"), "--mean: expected numbers with commas or one of"),
        (("--mean", "0.5", "--std", "0"), "expected preprocessing.std to be"),
        (("--mean", "nan", "--std", "1"), "--mean: expected finite numbers"),
        (("--mean", "0.5", "--std", "127.5"), "--std: expected numbers of pixels / 255"),
        (
            ("--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375"),
            "got 123.675; divide mean and std of pixels from 0 to 255 by 255",
        ),
        (("--resize-shorter", "100"), "--resize-shorter: expected 224 pixels or more"),
        (("--channels", "1"), "expected images of 3 channels, as of every network of torchvision"),
    ],
)
def test_B9_faulty_option_is_refused_and_nothing_written(
    weights: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    result = pack(weights, *SOURCE, "--out", tmp_path / "new" / "out", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [NotImportable("no"), KeyboardInterrupt(), OSError("full")])
def test_B9_interrupted_pack_leaves_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(folder: Path, settings: object) -> None:
        assert (folder / "model.json").is_file()
        raise failure

    monkeypatch.setattr(packing, "try_bundle", fail)
    assert pack(weights, *SOURCE, "--out", tmp_path / "new" / "out").exit_code != 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file/out", "/proc/out", "name" * 100, "dangling", "loop/out"])
def test_B9_folder_that_cannot_be_written_is_named(
    weights: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    result = pack(weights, *SOURCE, "--out", tmp_path / place)
    assert result.exit_code == 2
    assert result.stderr.startswith("--out: expected a ")
    assert len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_B9_folder_of_the_shell_is_not_replaced(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "got the one you are in" in pack(weights, *SOURCE, "--out", ".").stderr
    assert list(tmp_path.iterdir()) == []


def test_link_to_an_empty_folder_is_followed(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    packed(weights, *SOURCE, "--out", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert read_manifest(tmp_path / "real").classes == ("cat", "dog", "bird")


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_B9_pack_that_is_ended_by_a_signal_leaves_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: signal.Signals
) -> None:
    monkeypatch.setattr(packing, "try_bundle", lambda *_: signal.raise_signal(kind))
    before = signal.getsignal(kind)
    assert pack(weights, *SOURCE, "--out", tmp_path / "out").exit_code == 128 + kind
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(kind) == before


def test_B9_second_pack_to_one_place_is_refused(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_first(folder: Path, settings: object) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "model.json").write_text("of the first")

    monkeypatch.setattr(packing, "try_bundle", write_first)
    result = pack(weights, *SOURCE, "--out", tmp_path / "out")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert (tmp_path / "out" / "model.json").read_text() == "of the first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_B9_pack_that_fails_its_trial_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(onnx_files.content(over_batch=True))
    assert_failed_pack_writes_nothing(tmp_path / "net.onnx", tmp_path / "out")


@pytest.mark.parametrize("source", ["onnx", "weights"])
def test_B5_exif_rotation_is_packed_if_it_is_given(
    weights: Path, tmp_path: Path, source: str
) -> None:
    (tmp_path / "net.onnx").write_bytes(onnx_files.content())
    arguments: tuple[str | Path, ...] = (weights, *SOURCE, "--policy", "stingy:n=2")
    if source == "onnx":
        arguments = (tmp_path / "net.onnx", "--labels", "a,b,c,d,e", "--policy", "stingy:n=2")
    plain = packed(*arguments, "--out", tmp_path / "plain")
    turned = packed(*arguments, "--out", tmp_path / "turned", "--exif-rotation")
    assert not read_manifest(tmp_path / "plain").preprocessing.exif_rotation
    assert read_manifest(tmp_path / "turned").preprocessing.exif_rotation
    assert ("turned as their EXIF says" in plain, "turned as their EXIF says" in turned) == (
        False,
        True,
    )


def test_single_class_with_a_score_is_noted(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(onnx_files.content())
    note = "one class leaves, so its score is always the same; see --policy stingy:n=2"
    printed = packed(tmp_path / "net.onnx", "--labels", "a,b,c,d,e", "--out", tmp_path / "out")
    assert f"note         {note}" in printed
    assert f"note         {note}" in check(tmp_path / "out").stdout


def test_B9_pack_opens_no_connection(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr("socket.socket.connect", lambda _, address: opened.append(address))
    packed(weights, *SOURCE, "--out", tmp_path / "out")
    assert pack(f"torchvision:{NAME}").exit_code == 2
    assert opened == []


@pytest.mark.parametrize("source", ["w.h5", "nothing", "timm", "a.py", "saved_model/"])
def test_unknown_source_is_refused_with_the_known_forms(source: str) -> None:
    result = pack(source)
    assert result.exit_code == 2
    assert f"{source}: expected a .pth, .pt or .safetensors file with --arch" in result.stderr


def test_names_of_normalisations_set_mean_and_std() -> None:
    assert parse_mean_and_std("half", None) == ((0.5,), (0.5,))
    assert parse_mean_and_std("0.1,0.2,0.3", "imagenet")[1] == (0.229, 0.224, 0.225)
    assert parse_mean_and_std(None, None) == (None, None)
    assert parse_size("96X128") == (96, 128)


def test_description_names_size_cut_and_scale() -> None:
    grey = Preprocessing(size=(28, 28), mean=(0.5,), std=(0.5,), channels=1)
    assert describe_preprocessing(grey) == "28 x 28 grey, bilinear; mean and std of half"
    plain = Preprocessing(size=(8, 9), mean=(0.0,) * 3, std=(1.0,) * 3, resize_to=(10, 12))
    assert describe_preprocessing(plain) == (
        "8 x 9 RGB, cut from the middle of 10 x 12, bilinear; mean 0, 0, 0, std 1, 1, 1"
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Pets v1", "pets-v1"),
        ("ResNet18.best", "resnet18.best"),
        ("Käse", "k-se"),
        ("___", "model"),
    ],
)
def test_model_name_is_made_from_a_file_name(text: str, name: str) -> None:
    assert model_name(text) == name


def test_bundle_as_a_source_is_named_as_one(weights: Path, tmp_path: Path) -> None:
    packed(weights, *SOURCE, "--out", tmp_path / "out")
    assert "got a bundle; serve it" in pack(tmp_path / "out").stderr


def test_bad_trial_of_own_code_ends_in_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\ndef build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Softmax(1))\n"
    )
    arguments = (f"{tmp_path}/own.py:build", "--labels", "a,b,c", "--size", "8")
    result = pack(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "rows that sum to 1, as after a softmax" in result.stderr
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".pyc"] == ["own.py"]
    printed = packed(*arguments, "--out", tmp_path / "out", "--outputs", "probabilities")
    assert "rows         probabilities" in printed


@pytest.mark.parametrize(("policy", "noted"), [("stingy:n=2", True), ("label", False)])
def test_pack_and_check_note_a_policy_that_a_server_refuses(
    weights: Path, tmp_path: Path, policy: str, noted: bool
) -> None:
    printed = packed(weights, *SOURCE, "--out", tmp_path / "out", "--policy", policy)
    for text in (printed, check(tmp_path / "out").stdout):
        assert ("this policy hides nothing, so a server refuses it" in text) == noted


def test_bundle_for_a_model_server_is_shown(tmp_path: Path) -> None:
    write_bundle(
        tmp_path / "b",
        model=None,
        name="far",
        version="1",
        classes=("a", "b"),
        preprocessing=Preprocessing(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3),
        policy="label",
    )
    shown = CliRunner().invoke(app, ["bundle", "show", str(tmp_path / "b")])
    assert shown.exit_code == 0, shown.stderr
    assert "no weights: another model server runs it" in shown.stdout
    assert 'set engine = "oip"' in check(tmp_path / "b").stderr


def test_check_tries_a_bundle_and_names_a_path_that_is_none(weights: Path, tmp_path: Path) -> None:
    packed(weights, *SOURCE, "--out", tmp_path / "out", "--policy", "stingy:n=2")
    checked = check(tmp_path / "out")
    assert checked.exit_code == 0
    assert "what leaves  stingy: top 2 of 3 classes" in checked.stdout
    content = (tmp_path / "out" / "weights.safetensors").read_bytes()
    (tmp_path / "out" / "weights.safetensors").write_bytes(content[:-1] + b"!")
    assert "to have the manifest's sha256, got another" in check(tmp_path / "out").stderr
    refused = check(weights)
    assert refused.exit_code == 2
    assert f"make a bundle of it: stingy bundle pack '{weights}'" in refused.stderr


def test_name_of_a_file_does_not_control_the_terminal(weights: Path, tmp_path: Path) -> None:
    shutil.copy(weights, tmp_path / "a\x1b[2Jb.pth")
    printed = packed(tmp_path / "a\x1b[2Jb.pth", *SOURCE, "--out", tmp_path / "out")
    assert "weights of a?[2Jb.pth" in printed
    shown = CliRunner().invoke(app, ["bundle", "show", str(tmp_path / "out")])
    assert "\x1b" not in shown.stdout + printed
