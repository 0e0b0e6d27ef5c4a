"""Fused artefacts: one program that answers as the embedded engine does and reveals no more."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import tritonclient
from google.protobuf import text_format
from torch import nn
from typer.testing import CliRunner

from sample_networks import canaries
from serving import load_one, make_bundle, make_settings, random_images, start_one
from stingy_protection import BundleError, LogitsRejected, SparseLogits
from stingy_protection.bundles.fused import read_outputs
from stingy_server import ModelSettings
from stingy_server.cli.main import app
from stingy_server.inference.engine import EmbeddedEngine
from stingy_server.inference.export import NotExportable, onnx_session
from stingy_server.models.artefact import (
    Artefact,
    Format,
    open_artefact,
    read_artefact,
    verified_program,
    write_artefact,
)
from stingy_server.models.endpoints import Endpoint
from stingy_server.models.loading import LoadedModel, load_bundles

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)
IMAGES = random_images(1000)


def load(folder: Path, bundle: Path) -> LoadedModel:
    return load_one(make_settings(folder, bundle))


def write(folder: Path, loaded: LoadedModel, *, format: Format) -> Artefact:
    assert isinstance(loaded.network, nn.Module)
    policy = loaded.policy
    return write_artefact(
        folder, loaded.network, manifest=loaded.manifest, policy=policy, format=format
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a bundle and its two artefacts."""
    home = tmp_path_factory.mktemp("artefacts")
    bundle = make_bundle(
        home / "bundle",
        factory="sample_networks:convolutional",
        policy="stingy:n=3",
        num_classes=20,
        gain=3.0,
    )
    formats: tuple[Format, ...] = ("onnx", "pt2")
    for form in formats:
        write(home / form, load(home / "state", bundle), format=form)
    return home


def start(folder: Path, model: Path | ModelSettings, **options: Any) -> Endpoint:
    return start_one(make_settings(folder, model, **options))


def embedded(home: Path) -> SparseLogits:
    engine = start(home / "state", home / "bundle").engine
    assert isinstance(engine, EmbeddedEngine)
    return engine.answer(IMAGES)


def run(home: Path, form: str) -> SparseLogits:
    if form == "onnx":
        return open_artefact(home / "onnx")(IMAGES)
    program = torch.export.load(home / "pt2" / "model.pt2")
    outputs = [output.numpy() for output in program.module()(torch.from_numpy(IMAGES))]
    return read_outputs(read_artefact(home / "pt2").policy, outputs, rows=len(IMAGES))


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_artefact_equals_embedded_engine_on_a_thousand_images(home: Path, form: str) -> None:
    answer, expected = run(home, form), embedded(home)
    assert torch.equal(answer.indices, expected.indices)
    assert answer.scores is not None
    assert expected.scores is not None
    steps = ((answer.scores - expected.scores) * 1000).round().abs().amax(dim=1)
    assert steps.max() <= 1
    assert (steps > 0).float().mean() <= 0.01


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"strict": True, "batch_size": 8}], ids=str)
async def test_artefact_is_served_like_a_bundle(home: Path, options: dict[str, Any]) -> None:
    endpoint = start(home / "state", home / "onnx", **options)
    answer = (await endpoint.engine.predict(IMAGES[:21], caller="a")).answer
    single = (await endpoint.engine.predict(IMAGES[20:21], caller="a")).answer
    await endpoint.engine.close()
    expected = run(home, "onnx")
    assert torch.equal(answer.indices, expected.indices[:21])
    assert torch.equal(single.indices, expected.indices[20:21])
    assert endpoint.policy.describe().startswith("stingy: top 3 of 20")


@pytest.mark.parametrize(
    ("policy", "allow_open", "fault"),
    [("stingy:n=5", True, "fused in"), ("label", True, "fused in"), (None, False, "allow_open")],
)
def test_L4_policy_of_an_artefact_cannot_be_replaced(
    home: Path, tmp_path: Path, policy: str | None, allow_open: bool, fault: str
) -> None:
    folder = home / "onnx"
    if policy is None:
        folder = tmp_path / "open"
        code, output = invoke(
            *("export", home / "bundle", "--fuse", "--policy", "open", "--allow-open"),
            *("--out", folder, "--config", trusting(tmp_path)),
        )
        assert code == 0, output
    model = ModelSettings(bundle=folder, policy=policy)
    settings = make_settings(tmp_path / "s", model, allow_open=allow_open)
    models, faults = load_bundles(settings)
    assert models == []
    assert len(faults) == 1
    assert fault in faults[0]


def test_L4_onnx_graph_has_two_outputs_of_n_columns(home: Path) -> None:
    graph = onnx.load(str(home / "onnx" / "model.onnx")).graph
    assert [value.name for value in graph.input] == ["image"]
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim][1:]
        for value in graph.output
    }
    assert shapes == {"indices": [3], "scores": [3]}


def test_L4_canary_logits_do_not_leave_the_program(tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path / "b", factory="sample_networks:Canary", policy="stingy:n=2,scores=logit", gain=1.0
    )
    artefact = write(tmp_path / "a", load(tmp_path / "s", bundle), format="onnx")
    outputs = onnx_session(verified_program(tmp_path / "a", artefact), threads=1).run(
        None, {"image": IMAGES[:5]}
    )
    numbers = {round(float(value), 3) for value in np.concatenate([o.ravel() for o in outputs])}
    birds = [round(float(value), 3) for value in canaries(10)]
    assert set(birds[:2]) <= numbers
    assert not set(birds[2:]) & numbers


def test_P2_program_refuses_logits_that_are_not_finite(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", policy="stingy:n=2", gain=1.0)
    loaded = load(tmp_path / "s", bundle)
    assert isinstance(loaded.network, nn.Module)
    with torch.no_grad():
        next(loaded.network.parameters()).fill_(torch.inf)
    write(tmp_path / "a", loaded, format="onnx")
    with pytest.raises(LogitsRejected):
        open_artefact(tmp_path / "a")(IMAGES[:2])


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_M1_program_with_another_hash_is_not_opened(tmp_path: Path, home: Path, form: str) -> None:
    for file in (home / form).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    artefact = read_artefact(tmp_path)
    with (tmp_path / artefact.file).open("ab") as program:
        program.write(b"\0")
    with pytest.raises(BundleError, match="sha256"):
        verified_program(tmp_path, artefact)


def test_M1_pt2_is_not_opened_because_torch_would_unpickle_it(home: Path) -> None:
    with pytest.raises(BundleError, match="pt2"):
        open_artefact(home / "pt2")


CHANGES: Sequence[dict[str, Any]] = (
    {"policy": "stingy:n=20"},
    {"policy": "open"},
    {"policy": "stingy:n=3,decimals=6"},
    {"artefact": {"format": "onnx"}},
    {"artefact": {}},
    {"artefact": 3},
    {"classes": ["a", "b"]},
    {"surplus": 1},
)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_L4_manifest_that_differs_from_the_program_is_refused(
    tmp_path: Path, home: Path, change: dict[str, Any]
) -> None:
    document = json.loads((home / "onnx" / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(document | change))
    with pytest.raises(BundleError):
        read_artefact(tmp_path)


def test_network_that_branches_on_values_is_refused_by_name(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", factory="sample_networks:Fragile", policy="stingy:n=2")
    with pytest.raises(NotExportable, match=r"torch\.export"):
        write(tmp_path / "a", load(tmp_path / "s", bundle), format="pt2")


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["bundle", *map(str, arguments)])
    return result.exit_code, result.output


def trusting(folder: Path) -> Path:
    config = folder / "trusting.toml"
    config.write_text('trusted_factories = ["sample_networks"]\n')
    return config


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ((), "--fuse"),
        (("--fuse", "--policy", "open"), "allow_open"),
        (("--fuse", "--policy", "keyed_noise"), "without noise"),
        (("--fuse", "--policy", "stingy_smooth"), "one function of tensors"),
        (("--fuse", "--policy", "sting"), "unknown policy"),
        (("--fuse", "--format", "pt2", "--layout", "triton"), "--format onnx"),
    ],
)
def test_export_refuses_open_or_unfusable_policies(
    home: Path, tmp_path: Path, options: tuple[str, ...], fault: str
) -> None:
    config = ("--config", trusting(tmp_path))
    code, output = invoke("export", home / "bundle", "--out", tmp_path / "a", *config, *options)
    assert code == 2
    assert fault in output
    assert not (tmp_path / "a").exists()


def test_show_prints_the_policy_and_checks_the_file(home: Path, tmp_path: Path) -> None:
    for folder, form in (("bundle", "weights"), ("onnx", "onnx, policy fused in")):
        code, output = invoke("show", home / folder, "--json")
        shown = json.loads(output)
        assert (code, shown["form"]) == (0, form)
        assert shown["policy"].startswith("stingy: top 3 of 20 classes")
    for file in (home / "onnx").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes() + b" ")
    code, output = invoke("show", tmp_path)
    assert code == 2
    assert "sha256" in output


def triton_config(text: str) -> Any:
    """Parse a configuration by Triton's own schema, which is part of the client's package."""
    schema = Path(tritonclient.__path__[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", schema)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text_format.Parse(text, module.ModelConfig())


def test_triton_repository_has_program_and_fitting_configuration(
    home: Path, tmp_path: Path
) -> None:
    config = ("--config", trusting(tmp_path))
    code, output = invoke(
        "export", home / "bundle", "--fuse", "--layout", "triton", "--out", tmp_path / "r", *config
    )
    assert code == 0, output
    model = tmp_path / "r" / "digits"
    config = triton_config((model / "config.pbtxt").read_text())
    artefact: Artefact = read_artefact(model / "1")
    session = onnx_session(verified_program(model / "1", artefact), threads=1)
    assert (config.name, config.backend, config.default_model_filename) == (
        "digits",
        "onnxruntime",
        "model.onnx",
    )
    types = {2: "tensor(uint8)", 9: "tensor(int64)", 11: "tensor(float)"}
    for configured, actual in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert [entry.name for entry in configured] == [entry.name for entry in actual]
        for entry, actual_entry in zip(configured, actual, strict=True):
            assert list(entry.dims) == actual_entry.shape[1:]
            assert types[entry.data_type] == actual_entry.type
