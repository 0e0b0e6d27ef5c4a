"""Runtimes: the network in another runtime, the gate here, and answers within P5."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serving import PREPROCESSING, load_one, make_bundle, make_settings, random_images
from stingy_protection import Policy, build_policy
from stingy_server import Settings
from stingy_server.inference import runtimes
from stingy_server.inference.runtimes import RuntimeUnfit, choose_runtime
from stingy_server.models.endpoints import Endpoint, start_endpoints

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)
IMAGES = random_images(256)
OTHERS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(name) is None, reason=f"{name} is not installed"
        ),
    )
    for name in ("onnxruntime", "openvino")
]
POLICY = build_policy("stingy", num_classes=10, n="3")


def start(folder: Path, **options: Any) -> tuple[Endpoint | None, list[str]]:
    bundle = make_bundle(
        folder / "b", factory="sample_networks:convolutional", policy="stingy:n=3", gain=3.0
    )
    settings = make_settings(folder / "s", bundle, **options)
    endpoints, faults = start_endpoints([load_one(settings)], settings, secret=bytes(16))
    return next(iter(endpoints), None), faults


async def answers(folder: Path, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return indices and scores of one query of all images, and the scores of single queries."""
    endpoint, faults = start(folder, **options)
    assert faults == []
    assert endpoint is not None
    batched = (await endpoint.engine.predict(IMAGES, caller="a")).answer
    single = [
        (await endpoint.engine.predict(image[None], caller="a")).answer.scores for image in IMAGES
    ]
    await endpoint.engine.close()
    assert batched.scores is not None
    return (
        batched.indices,
        batched.scores,
        torch.cat([scores for scores in single if scores is not None]),
    )


def moved(left: Tensor, right: Tensor) -> float:
    """Return the share of rows that differ; each by at most one step of the grid."""
    steps = ((left - right) * 1000).round().abs().amax(dim=1)
    assert steps.max() <= 1
    return float((steps > 0).float().mean())


@pytest.mark.anyio
@pytest.mark.parametrize("runtime", OTHERS)
async def test_P5_runtime_moves_few_answers_by_at_most_one_step(
    tmp_path: Path, runtime: str
) -> None:
    indices, scores, _ = await answers(tmp_path / "torch")
    other_indices, other_scores, other_single = await answers(tmp_path / "other", runtime=runtime)
    assert torch.equal(indices, other_indices)
    assert moved(scores, other_scores) <= 0.01
    assert moved(other_scores, other_single) <= 0.01


@pytest.mark.anyio
@pytest.mark.parametrize("runtime", OTHERS)
async def test_P5_strict_is_bit_exact_in_a_named_runtime(tmp_path: Path, runtime: str) -> None:
    _, batched, single = await answers(tmp_path, runtime=runtime, strict=True, batch_size=8)
    assert torch.equal(batched, single)


class Branching(nn.Module):
    """A network that cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits if logits.sum() > 0 else logits * 2


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))


def choose(network: nn.Module, *, policy: Policy = POLICY, **options: Any) -> tuple[str, Any]:
    settings = Settings(**{"device": "cpu", "batch_size": 4, **options})
    return choose_runtime(network, preprocessing=PREPROCESSING, policy=policy, settings=settings)


def test_torch_is_the_default() -> None:
    assert choose(linear())[0] == Settings().runtime == "torch"


def test_auto_uses_the_fastest_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    network = linear()
    sizes: list[int] = []

    def fake_time(run: object, inputs: Tensor) -> float:
        sizes.append(len(inputs))
        return 2.0 if run is network else 1.0

    monkeypatch.setattr(runtimes, "RUNTIMES", ("onnxruntime",))
    monkeypatch.setattr(runtimes, "_time_pass", fake_time)
    name, run = choose(network, runtime="auto")
    assert name == "onnxruntime"
    assert sizes == [1, 4, 1, 4]
    inputs = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(run(inputs), network(inputs))
    monkeypatch.setattr(runtimes, "_time_pass", lambda run, _: 1.0 if run is network else 2.0)
    assert choose(network, runtime="auto") == ("torch", network)


def test_auto_falls_back_to_torch_and_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="stingy"):
        assert choose(Branching(), runtime="auto")[0] == "torch"
    assert "using torch" in caplog.text


@pytest.mark.parametrize("options", [{"strict": True}, {"precision": "bfloat16"}])
def test_auto_uses_torch_if_the_choice_could_break_a_promise(options: dict[str, Any]) -> None:
    network = linear()
    assert choose(network, runtime="auto", **options) == ("torch", network)


def test_named_runtime_that_cannot_run_the_network_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnfit, match=r"torch\.export"):
        choose(Branching(), runtime="onnxruntime")
    with pytest.raises(RuntimeUnfit, match="float32"):
        choose(linear(), runtime="onnxruntime", precision="bfloat16")
    with pytest.raises(RuntimeUnfit, match="expected device = cuda, got cpu"):
        choose(linear(), runtime="cuda_graphs", device="cpu")
    _, faults = start(tmp_path, runtime="onnxruntime", precision="bfloat16")
    assert len(faults) == 1
    assert faults[0].startswith("digits: not run by onnxruntime")


def failing(inputs: Tensor) -> Tensor:
    raise MemoryError("expected more memory")


def failing_on_a_batch(inputs: Tensor) -> Tensor:
    return failing(inputs) if len(inputs) == 4 else NETWORK(inputs)


NETWORK = linear()


@pytest.mark.parametrize("run", [failing, failing_on_a_batch])
def test_P6_runtime_that_raises_is_rejected_with_a_logged_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, run: Any
) -> None:
    monkeypatch.setattr(runtimes, "RUNTIMES", ("onnxruntime",))
    monkeypatch.setattr(runtimes, "_onnxruntime", lambda _: run)
    with caplog.at_level(logging.WARNING, logger="stingy"):
        assert choose(NETWORK, runtime="auto") == ("torch", NETWORK)
    assert "not onnxruntime: expected" in caplog.text
    assert "got MemoryError" in caplog.text


def test_P6_named_runtime_that_raises_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_onnxruntime", lambda _: failing)
    with pytest.raises(RuntimeUnfit, match="got MemoryError"):
        choose(NETWORK, runtime="onnxruntime")


def test_P6_runtime_that_cannot_be_started_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(program: bytes) -> Any:
        raise KeyError("a plug-in of the runtime")

    monkeypatch.setattr(runtimes, "RUNTIMES", ("onnxruntime",))
    monkeypatch.setattr(runtimes, "_onnxruntime", broken)
    assert choose(NETWORK, runtime="auto") == ("torch", NETWORK)


@pytest.mark.parametrize("error", [0.002, 10.0])
def test_P5_runtime_with_other_answers_is_not_used(
    monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    network = linear()
    drift = torch.linspace(0, 1, 10) * error
    monkeypatch.setattr(runtimes, "_onnxruntime", lambda _: lambda inputs: network(inputs) + drift)
    with pytest.raises(RuntimeUnfit, match="not torch's"):
        choose(network, runtime="onnxruntime")
