"""The trial: a model whose answers depend on other images, or on chance, is not served."""

import json
import logging
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

import odd_networks
from serving import PREPROCESSING, random_images
from stingy_protection import Preprocessing, write_bundle
from stingy_server import ModelSettings, Settings
from stingy_server.inference.forward import Forward
from stingy_server.models.artefact import write_artefact
from stingy_server.models.endpoints import Endpoint, close_endpoints, start_endpoints
from stingy_server.models.loading import load_bundles
from stingy_server.models.trial import MOST_S, make_trial_images, try_forward

K = 5
IMAGES = random_images(9)[..., :1].repeat(3, axis=3)  # grey, for all networks
GREY = Preprocessing(size=(8, 8), mean=(0.4,), std=(0.3,), channels=1)


def pack(folder: Path, network: str, *, num_classes: int = K, **options: Any) -> Path:
    """Write a bundle of an odd network."""
    torch.manual_seed(0)
    arguments = {"num_classes": num_classes, **options.pop("arguments", {})}
    write_bundle(
        folder,
        model=getattr(odd_networks, network)(**arguments),
        name="odd",
        version="1",
        factory=f"odd_networks:{network}",
        arguments=arguments,
        classes=[f"class {index}" for index in range(K)],
        preprocessing=options.pop("preprocessing", PREPROCESSING),
        **{"policy": "open", **options},
    )
    return folder


def settings_of(folder: Path, **options: Any) -> Settings:
    return Settings(
        state=folder / "state",
        models=(ModelSettings(bundle=folder),),
        trusted_factories=("odd_networks",),
        allow_open=True,
        **{"device": "cpu", "batch_size": 6, **options},
    )


def start(folder: Path, **options: Any) -> tuple[list[Endpoint], list[str]]:
    """Start the bundle of a folder, and return its endpoint or its faults."""
    settings = settings_of(folder, **options)
    models, faults = load_bundles(settings)
    assert faults == []
    return start_endpoints(models, settings, secret=bytes(16))


def answers(folder: Path, **options: Any) -> np.ndarray:
    """Return the log-probabilities of 9 images in the order of the classes."""
    (endpoint,), faults = start(folder, **options)
    assert faults == []
    answer = endpoint.engine.answer(IMAGES)  # type: ignore[attr-defined]
    close_endpoints([endpoint])
    rows = np.zeros((9, K), np.float32)
    np.put_along_axis(rows, answer.indices.numpy(), answer.scores.numpy(), axis=1)
    found: np.ndarray = torch.from_numpy(rows).log_softmax(dim=1).numpy()
    return found


BESIDE = "beside other images"
EACH_TIME = "same images each time"
FAULTY = {
    "BatchStatistics": BESIDE,
    "BatchScale": BESIDE,
    "BatchSort": BESIDE,
    "Previous": BESIDE,
    "ActiveDropout": EACH_TIME,
    "Noisy": EACH_TIME,
    "Counting": EACH_TIME,
    "Static": "batch axis is static",
    "Softmax": "rows that sum to 1",
    "InTuple": "got a tuple of 2",
    "NotANumber": "got NaN or infinity; look at the weights, and at mean and std",
    "Maps": r"got \[[16], 5, 1, 1\]",
    "Failing": "RuntimeError: no way",
}


@pytest.mark.parametrize("network", FAULTY)
@pytest.mark.parametrize("strict", [False, True])
def test_B1_faulty_network_is_refused_by_its_sentence(
    tmp_path: Path, network: str, strict: bool
) -> None:
    if strict and network == "Static":
        pytest.skip("a padded batch is one batch size, for which this network raises too")
    endpoints, faults = start(pack(tmp_path, network), strict=strict)
    assert endpoints == []
    (fault,) = faults
    assert re.search(FAULTY[network], fault), fault


SOUND = ("Base", "LogSoftmax", "InDict", "InObject", "Viewing")


@pytest.mark.parametrize("network", SOUND)
@pytest.mark.parametrize("options", [{}, {"strict": True}, {"batch_size": 1}, {"batch_size": 2}])
def test_B1_sound_network_is_served(tmp_path: Path, network: str, options: dict[str, Any]) -> None:
    assert answers(pack(tmp_path, network), **options).any()


def test_B1_batch_statistics_name_the_layer(tmp_path: Path) -> None:
    (fault,) = start(pack(tmp_path, "BatchStatistics"))[1]
    assert "norm normalises by the batch" in fault


def test_B1_dict_without_logits_names_its_fields(tmp_path: Path) -> None:
    (fault,) = start(pack(tmp_path, "InDict", arguments={"name": "scores"}))[1]
    assert "got a dict with hidden, scores" in fault


@pytest.mark.parametrize("num_classes", [1, K - 1, K + 1])
def test_B1_other_number_of_classes_is_refused(tmp_path: Path, num_classes: int) -> None:
    (fault,) = start(pack(tmp_path, "Base", num_classes=num_classes))[1]
    assert f"expected one logit for each of {K} classes, got {num_classes} an image" in fault


def test_B2_probabilities_give_the_answers_of_their_logits(tmp_path: Path) -> None:
    expected = answers(pack(tmp_path / "a", "Base"))
    found = answers(pack(tmp_path / "b", "Softmax", outputs="probabilities"))
    assert np.abs(found - expected).max() <= 0.0015


def test_B2_logits_declared_as_probabilities_are_refused(tmp_path: Path) -> None:
    (fault,) = start(pack(tmp_path, "Base", outputs="probabilities"))[1]
    assert "expected rows of probabilities that sum to 1" in fault


def test_B2_probability_of_zero_is_a_finite_logit(tmp_path: Path) -> None:
    forward = Forward(
        lambda inputs: torch.tensor([[1.0, 0.0, 1e-42]]).expand(len(inputs), -1),
        preprocessing=PREPROCESSING,
        outputs="probabilities",
        device=torch.device("cpu"),
    )
    (row,) = forward(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    assert row.isfinite().all()
    assert row[0] == 0


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_B1_network_that_calls_view_gets_contiguous_inputs(tmp_path: Path, runtime: str) -> None:
    folder = pack(tmp_path, "Viewing")
    torch.manual_seed(0)
    network = odd_networks.Viewing(K)
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).contiguous() / 255
    expected = network(images).log_softmax(dim=1).detach().numpy()
    assert np.abs(answers(folder, runtime=runtime) - expected).max() < 0.002


def test_B1_grey_network_gets_pillows_grey(tmp_path: Path) -> None:
    folder = pack(tmp_path, "Grey", preprocessing=GREY)
    assert answers(folder).any()
    assert answers(folder, runtime="onnxruntime").any()


def test_B1_trial_of_a_slow_model_takes_seconds(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            time.sleep(0.02 * len(inputs))
            return inputs.flatten(1)[:, :K]

    forward = Forward(Slow(), preprocessing=PREPROCESSING, device=torch.device("cpu"))
    started = time.monotonic()
    with caplog.at_level(logging.INFO, "stingy"):
        trial = try_forward(
            forward,
            preprocessing=PREPROCESSING,
            num_classes=K,
            outputs="logits",
            batch_size=10_000,
            strict=False,
        )
    assert trial.faults == ()
    assert time.monotonic() - started < 2 * MOST_S
    assert "of 10000 images" in caplog.text


def test_B1_trial_images_are_noise_black_and_bright() -> None:
    images = make_trial_images(PREPROCESSING, 4)
    assert len(np.unique(images[0])) > 50
    assert not images[1].any()
    assert len(np.unique(images[2])) == 1
    assert np.array_equal(images, make_trial_images(PREPROCESSING, 4))
    grey = make_trial_images(replace(PREPROCESSING, channels=1, mean=(0.0,), std=(1.0,)), 3)
    assert (grey == grey[..., :1]).all()


def test_B1_bundle_of_format_1_is_served(tmp_path: Path) -> None:
    folder = pack(tmp_path, "Base")
    fields = json.loads((folder / "model.json").read_text())
    for name in ("format", "weights", "outputs", "source"):
        del fields[name]
    image = fields["preprocessing"]
    fields["preprocessing"] = {name: image[name] for name in ("size", "mean", "std")}
    expected = answers(folder)
    (folder / "model.json").write_text(json.dumps(fields))
    assert np.array_equal(answers(folder), expected)


@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("Grey", {"preprocessing": GREY}),
        ("Softmax", {"outputs": "probabilities"}),
        ("InDict", {}),
        ("InObject", {}),
        ("Viewing", {}),
    ],
)
def test_B2_artefact_of_such_a_network_answers_alike(
    tmp_path: Path, form: Literal["onnx", "pt2"], network: str, options: dict[str, Any]
) -> None:
    folder = pack(tmp_path / "b", network, policy="stingy:n=2", **options)
    (model,), _ = load_bundles(settings_of(folder))
    assert isinstance(model.network, nn.Module)
    write_artefact(
        tmp_path / "a", model.network, manifest=model.manifest, policy=model.policy, format=form
    )
    if form == "onnx":
        assert np.abs(answers(tmp_path / "a") - answers(folder)).max() <= 0.0025


def test_B1_artefact_with_batch_statistics_is_refused(tmp_path: Path) -> None:
    folder = pack(tmp_path / "b", "BatchStatistics", policy="stingy:n=2,decimals=5")
    (model,), _ = load_bundles(settings_of(folder))
    assert isinstance(model.network, nn.Module)
    write_artefact(
        tmp_path / "a", model.network, manifest=model.manifest, policy=model.policy, format="onnx"
    )
    (fault,) = start(tmp_path / "a")[1]
    assert BESIDE in fault


def test_B1_rounding_of_nearly_equal_logits_is_no_fault() -> None:
    steps = iter(range(1000))

    class Rounding(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            rows = 1000 + inputs.flatten(1)[:, :K] * 1e-3
            return rows + (next(steps) % 2) * 1.2e-4  # two steps of float32 at 1000

    forward = Forward(Rounding(), preprocessing=PREPROCESSING, device=torch.device("cpu"))
    trial = try_forward(
        forward,
        preprocessing=PREPROCESSING,
        num_classes=K,
        outputs="logits",
        batch_size=4,
        strict=False,
    )
    assert trial.faults == ()


@pytest.mark.parametrize(
    ("name", "scale", "warned"),
    [("Base", 1.0, False), ("Base", 255.0, True), ("Constant", 1.0, True)],
)
def test_inputs_of_another_scale_and_empty_weights_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, scale: float, warned: bool
) -> None:
    mean, std = (value * scale for value in (0.45, 0.22))
    image = Preprocessing(size=(8, 8), mean=(mean,) * 3, std=(std,) * 3)
    endpoints, faults = start(pack(tmp_path, name, preprocessing=image))
    close_endpoints(endpoints)
    assert faults == []
    assert ("one class and almost the same logits; look at" in caplog.text) == warned
