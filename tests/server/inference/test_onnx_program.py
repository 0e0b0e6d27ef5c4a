"""ONNX bundles: the program runs here, behind the gate of this process."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from onnx_files import K, content, external, external_inside
from serving import make_settings, png, random_images, running
from stingy_protection import BundleError, Preprocessing, read_manifest, write_bundle
from stingy_server import ModelSettings, Settings
from stingy_server.inference.onnx_program import OnnxProgram, choose_layout
from stingy_server.models.endpoints import close_endpoints, start_endpoints
from stingy_server.models.loading import load_bundles

IMAGES = random_images(9)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
PREPROCESSING = Preprocessing(size=(8, 8), mean=MEAN, std=STD)
GREY = Preprocessing(size=(8, 8), mean=(0.4,), std=(0.2,), channels=1)


def pack(folder: Path, program: bytes, **options: Any) -> Path:
    write_bundle(
        folder,
        model=program,
        name="digits",
        version="1",
        classes=[f"class {index}" for index in range(K)],
        **{"preprocessing": PREPROCESSING, "policy": "open", **options},
    )
    return folder


def start(folder: Path, **options: Any) -> tuple[Any, list[str]]:
    settings = make_settings(folder / "state", folder, **{"allow_open": True, **options})
    models, faults = load_bundles(settings)
    if faults:
        return [], faults
    return start_endpoints(models, settings, secret=bytes(16))


def rows_of(folder: Path, **options: Any) -> np.ndarray:
    """Return the logits of the images in the order of the classes."""
    (endpoint,), faults = start(folder, **options)
    assert faults == []
    answer = endpoint.engine.answer(IMAGES)
    close_endpoints([endpoint])
    rows = np.zeros((len(IMAGES), K), np.float32)
    np.put_along_axis(rows, answer.indices.numpy(), answer.scores.numpy(), axis=1)
    return rows


def inputs(preprocessing: Preprocessing = PREPROCESSING) -> np.ndarray:
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    found: np.ndarray = ((pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)).numpy()
    return found


def expected_rows(program: bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["logits"], {"image": inputs()})[0]
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "NHWC"},
        {"size": "S"},
        {"outputs": ("extra", "logits")},
        {"outputs": ("found",)},
    ],
)
def test_B7_program_answers_as_in_onnx_runtime(tmp_path: Path, options: dict[str, Any]) -> None:
    expected = expected_rows(content())
    found = rows_of(pack(tmp_path, content(**options)))
    assert np.abs(found - expected).max() <= 0.0011  # the grid of the policy


@pytest.mark.parametrize("options", [{"strict": True}, {"batch_size": 4}, {"batch_size": 1}])
def test_B7_program_answers_under_every_batching(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = pack(tmp_path, content())
    assert np.array_equal(rows_of(folder, **options), rows_of(folder))


def test_B7_half_precision_program_is_served(tmp_path: Path) -> None:
    folder = pack(tmp_path, content(dtype=onnx.TensorProto.FLOAT16))
    assert np.abs(rows_of(folder) - expected_rows(content())).max() < 0.05


def test_B7_probabilities_of_a_program_become_logits(tmp_path: Path) -> None:
    folder = pack(tmp_path, content(softmax=True), outputs="probabilities")
    expected = torch.from_numpy(expected_rows(content())).log_softmax(dim=1).numpy()
    assert np.abs(rows_of(folder) - expected).max() <= 0.0011


def test_B7_grey_program_gets_one_channel(tmp_path: Path) -> None:
    assert rows_of(pack(tmp_path, content(channels=1), preprocessing=GREY)).any()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "softmax": ({"softmax": True}, "rows that sum to 1"),
    "mean of the batch": ({"over_batch": True}, "beside other images"),
    "static batch": ({"batch": 1}, "batch axis is static"),
    "static batch inside": ({"static_reshape": True}, "batch axis is static"),
    "two outputs": ({"outputs": ("a", "b")}, "one named logits, got a, b"),
    "two inputs": ({"inputs": ("a", "b")}, "one input, got 2: a, b"),
    "another size": (
        {"size": 9},
        r"\[any, 3, 8, 8\] or \[any, 8, 8, 3\], got \[any, 3, 9",
    ),
    "grey input": ({"channels": 1}, r"got \[any, 1, 8, 8\]"),
    "integer input": ({"dtype": onnx.TensorProto.UINT8}, "float32 or float16, got uint8"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_B7_unfit_program_is_refused_by_its_sentence(tmp_path: Path, kind: str) -> None:
    options, sentence = REFUSED[kind]
    endpoints, faults = start(pack(tmp_path, content(**options)))
    assert endpoints == []
    (fault,) = faults
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(fault)


DAMAGED = {
    "external data": external(),
    "external data in a branch": external_inside(),
    "no program": b"hello",
    "nothing": b"",
    "half a program": content()[:500],
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_B7_damaged_program_or_one_with_paths_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(os.urandom(3 * 8 * 8 * K * 4))
    folder = pack(tmp_path / "b", DAMAGED[kind])
    _, faults = start(folder)
    (fault,) = faults
    assert "expected an ONNX program" in fault


def test_B7_changed_program_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pack(tmp_path, content())
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    monkeypatch.setattr(OnnxProgram, "read", pytest.fail)
    _, faults = start(folder)
    assert "expected model.onnx to have the manifest's sha256" in faults[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "bfloat16"}, "precision = float32"),
        ({"runtime": "openvino"}, "openvino"),
        ({"runtime": "cuda_graphs"}, "cuda_graphs"),
    ],
)
def test_B7_setting_that_a_program_cannot_keep_is_refused(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    _, faults = start(pack(tmp_path, content()), **options)
    assert sentence in faults[0]


def test_B7_layout_is_read_from_the_shape() -> None:
    assert choose_layout((None,) * 4, size=(8, 8), channels=3) == "NCHW"
    assert choose_layout((None, 3, None, None), size=(8, 8), channels=3) == "NCHW"
    assert choose_layout((1, 8, 8, 3), size=(8, 8), channels=3) == "NHWC"
    assert choose_layout((None, 3, 3, 3), size=(3, 3), channels=3) == "NCHW"
    for shape in ((None, 8, 8), (1, 3, 8, 9), ()):
        with pytest.raises(BundleError):
            choose_layout(shape, size=(8, 8), channels=3)


def test_B7_manifest_names_the_program_and_no_factory(tmp_path: Path) -> None:
    program = content()
    manifest = read_manifest(pack(tmp_path, program))
    assert (manifest.weights, manifest.factory, manifest.arguments) == ("onnx", "", {})
    assert manifest.sha256 == hashlib.sha256(program).hexdigest()


@pytest.mark.anyio
async def test_B7_program_is_served_behind_the_gate(tmp_path: Path) -> None:
    folder = pack(tmp_path / "b", content(), policy="stingy:n=2")
    async with running(make_settings(tmp_path / "s", folder)) as (client, _):
        response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
    assert response.status_code == 200
    assert len(response.json()["answers"][0]["classes"]) == 2


@pytest.mark.parametrize("engine", ["oip", "torchserve"])
def test_B8_upstream_bundle_needs_no_factory_or_weights(tmp_path: Path, engine: str) -> None:
    folder = tmp_path / "b"
    write_bundle(
        folder,
        model=None,
        name="far",
        version="1",
        classes=("cat", "dog", "owl"),
        preprocessing=PREPROCESSING,
        policy="stingy:n=1",
    )
    assert [path.name for path in folder.iterdir()] == ["model.json"]
    url = "http://127.0.0.1:1/v2/models/far/infer"
    model = ModelSettings(bundle=folder, engine=engine, url=url)  # type: ignore[arg-type]
    (loaded,), faults = load_bundles(Settings(models=(model,)))
    assert faults == []
    assert loaded.network is None
    assert loaded.weights == url
    _, faults = load_bundles(Settings(models=(ModelSettings(bundle=folder),)))
    (fault,) = faults
    assert fault.startswith("far: expected weights for the engine embedded, got a bundle without; ")
    assert 'engine = "oip"' in fault
