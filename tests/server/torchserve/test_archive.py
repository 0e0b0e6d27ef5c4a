"""The files for TorchServe: archives of checked bundles, and a configuration for loopback only."""

import json
from pathlib import Path
from zipfile import ZipFile

import pytest
from typer.testing import CliRunner, Result

import sample_networks
from serving import make_bundle
from stingy_protection import build_policy, read_manifest
from stingy_server.cli.torchserve import app
from stingy_server.models.artefact import write_artefact
from stingy_server.settings import OWN_FACTORIES


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STINGY_TRUSTED_FACTORIES", '["sample_networks"]')


def archive(bundle: Path, *options: str) -> Result:
    return CliRunner().invoke(
        app, ["torchserve", "archive", str(bundle), "--export-path", "store", *options]
    )


def config(*options: str) -> Result:
    return CliRunner().invoke(app, ["torchserve", "config", "--model-store", "store", *options])


def properties() -> dict[str, str]:
    lines = Path("config.properties").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_archive_has_the_bundle_its_policy_and_an_import(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", policy="stingy:n=2")
    done = archive(bundle, "--policy", "stingy:n=3")
    assert done.exit_code == 0, done.output
    assert "top 3 of 10" in done.output
    with ZipFile("store/digits.mar") as packed:
        assert sorted(packed.namelist()) == [
            "MAR-INF/MANIFEST.json",
            "model-config.yaml",
            "model.json",
            "stingy_gate.py",
            "weights.safetensors",
        ]
        assert json.loads(packed.read("model.json"))["policy"] == "stingy:n=3"
        assert packed.read("weights.safetensors") == (bundle / "weights.safetensors").read_bytes()
        code = packed.read("stingy_gate.py").decode()
        assert [line for line in code.splitlines() if "import" in line] == [
            "from stingy_server.torchserve.handler import Handler"
        ]


def test_same_bundle_makes_the_same_archive(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    archive(bundle)
    first = Path("store/digits.mar").read_bytes()
    archive(bundle)
    assert Path("store/digits.mar").read_bytes() == first


def test_worker_gets_the_settings_of_the_command(tmp_path: Path) -> None:
    Path("stingy.toml").write_text("strict = true\nbatch_size = 8\n", "utf-8")
    archive(make_bundle(tmp_path / "b"))
    with ZipFile("store/digits.mar") as packed:
        worker = json.loads(packed.read("model-config.yaml"))["stingy"]
    assert worker == {
        "strict": True,
        "precision": "float32",
        "batch_size": 8,
        "max_pixels": 2**24,
        "trusted_factories": [*OWN_FACTORIES, "sample_networks"],
    }


@pytest.mark.parametrize(
    ("policy", "fault"),
    [
        ("keyed_noise", "expected a policy without keyed noise"),
        ("open", "hides nothing"),
        ("stingy:n=11", "expected n to be an integer 1..10"),
    ],
)
def test_policy_that_must_not_be_packed_is_refused(tmp_path: Path, policy: str, fault: str) -> None:
    done = archive(make_bundle(tmp_path / "b"), "--policy", policy)
    assert done.exit_code == 2
    assert fault in done.output
    assert not Path("store").exists()


@pytest.mark.parametrize("options", [(), ("--policy", "stingy:n=3")])
def test_P6_artefact_is_refused_because_it_is_no_bundle(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    bundle = make_bundle(tmp_path / "b")
    manifest = read_manifest(bundle)
    policy = build_policy("stingy", num_classes=10)
    network = sample_networks.linear(10)
    write_artefact(tmp_path / "a", network, manifest=manifest, policy=policy, format="pt2")
    done = archive(tmp_path / "a", *options)
    assert done.exit_code == 2
    assert "a: expected a bundle, got an artefact" in done.output
    assert not Path("store").exists()


def test_M1_untrusted_or_changed_bundle_is_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "b")
    monkeypatch.setenv("STINGY_TRUSTED_FACTORIES", '["torchvision.models"]')
    assert "expected a factory from a trusted module" in archive(bundle).output
    monkeypatch.setenv("STINGY_TRUSTED_FACTORIES", '["sample_networks"]')
    (bundle / "weights.safetensors").write_bytes(b"changed")
    assert "sha256" in archive(bundle).output
    assert not Path("store").exists()


def test_U1_every_address_is_loopback_and_nothing_can_be_loaded(tmp_path: Path) -> None:
    archive(make_bundle(tmp_path / "b"))
    done = config("--port", "9500")
    assert done.exit_code == 0, done.output
    written = properties()
    addresses = {name: value for name, value in written.items() if name.endswith("_address")}
    assert len(addresses) == 5
    assert all(
        value.removeprefix("http://").startswith("127.0.0.1") for value in addresses.values()
    )
    assert written["enable_model_api"] == "false"
    assert written["disable_token_authorization"] == "false"
    assert written["enable_envvars_config"] == "false"
    assert written["allowed_urls"] == f"file://{tmp_path.resolve()}/store/.*"
    assert written["load_models"] == "digits.mar"


def test_largest_pass_of_the_edge_fits_the_request_limit(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    text = (bundle / "model.json").read_text("utf-8")
    document = json.loads(text)
    document["preprocessing"]["size"] = [512, 512]
    (bundle / "model.json").write_text(json.dumps(document), "utf-8")
    archive(bundle)
    config()
    assert int(properties()["max_request_size"]) > 64 * 512 * 512 * 3


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_foreign_archive_in_the_store_is_refused(tmp_path: Path, content: bytes) -> None:
    archive(make_bundle(tmp_path / "b"))
    Path("store/other.mar").write_bytes(content)
    done = config()
    assert done.exit_code == 2
    assert "other.mar: expected an archive of stingy torchserve archive" in done.output
    assert not Path("config.properties").exists()


def test_archive_with_another_handler_is_refused(tmp_path: Path) -> None:
    archive(make_bundle(tmp_path / "b"))
    with (
        ZipFile("store/digits.mar") as packed,
        ZipFile("store/open.mar", "w") as changed,
    ):
        for name in packed.namelist():
            data = packed.read(name)
            changed.writestr(name, b"x = 1" if name == "stingy_gate.py" else data)
    assert "open.mar: expected an archive" in config().output


def test_store_without_archives_is_refused(tmp_path: Path) -> None:
    Path("store").mkdir()
    assert "expected at least one .mar file" in config().output
