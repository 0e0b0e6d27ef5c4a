"""The runtimes of a network, each behind one function.

On the CPU they are torch, ONNX Runtime and OpenVINO, on CUDA torch with or without CUDA graphs.

A runtime gets the network alone. The policy stays with the gate in this process. Another runtime
than torch is used only if it answers trial images as torch does. The limit is the promise P5
without `strict`.
"""

import contextlib
import importlib.util
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stingy_protection import (
    NoisyPolicy,
    Policy,
    Preprocessing,
    SparseLogits,
    build_policy,
    sanitize,
)
from stingy_server.inference.cuda_graphs import CudaGraphs, padded_sizes
from stingy_server.inference.export import NotExportable, export_program, onnx_session, to_onnx
from stingy_server.inference.forward import Network
from stingy_server.inference.grid_comparison import answers_agree
from stingy_server.settings import Settings

log = logging.getLogger("stingy")
start = logging.getLogger("stingy.start")  # what a start does; shown until the server listens

RUNTIMES = ("onnxruntime", "openvino")  # beside torch, on the CPU
CUDA_GRAPHS = "cuda_graphs"
INPUT, OUTPUT = "input", "logits"
TRIALS = 256
TIMED_S = 0.5


class RuntimeUnfit(Exception):
    """A runtime cannot run this network, or does not answer as torch does."""


def choose_runtime(
    network: nn.Module,
    *,
    preprocessing: Preprocessing,
    policy: Policy,
    settings: Settings,
    contiguous: bool = False,
) -> tuple[str, Network]:
    """Load a network in the runtime that the settings name, or in the fastest one for "auto".

    With "auto", runtimes that fail are logged and skipped, and torch is always possible. On CUDA
    "auto" is torch.

    Args:
        contiguous: whether the network needs inputs with the strides of their shape.

    Returns:
        The name of the runtime, and the network as a function.

    Raises:
        RuntimeUnfit: if the settings name a runtime that cannot be used.
    """
    device = device_of(settings)
    network = to_layout(network, device=device, contiguous=contiguous)
    if settings.runtime == "torch":
        return "torch", network
    if settings.runtime == CUDA_GRAPHS:
        if device.type != "cuda":
            raise RuntimeUnfit(f"expected device = cuda, got {device.type}")
        count = max(TRIALS, settings.batch_size)
        inputs = _trial_inputs(preprocessing, count, contiguous=contiguous).to(device)
        return CUDA_GRAPHS, _load_cuda_graphs(network, inputs, policy, settings)
    if settings.precision != "float32" or device.type != "cpu":
        if settings.runtime != "auto":
            raise RuntimeUnfit("expected device = cpu and precision = float32, got others")
        return "torch", network
    if settings.runtime != "auto":
        inputs = _trial_inputs(preprocessing, TRIALS, contiguous=contiguous)
        return settings.runtime, _load_verified(settings.runtime, network, inputs, policy)
    if settings.strict:  # the choice may differ after a restart, and move answers by a step
        log.warning("runtime: strict answers need a runtime by name, got auto; using torch")
        return "torch", network
    inputs = _trial_inputs(preprocessing, TRIALS, contiguous=contiguous)
    return _fastest(network, inputs, policy, settings.batch_size)


def to_layout(network: nn.Module, *, device: torch.device, contiguous: bool) -> nn.Module:
    """Make a network ready for inference on a device.

    Its weights get the layout of the pixels, channels_last, because otherwise every pass would
    convert them again. With `contiguous` they get the strides of their shape.
    """
    layout = torch.contiguous_format if contiguous else torch.channels_last
    return network.eval().requires_grad_(False).to(device).to(memory_format=layout)


def device_of(settings: Settings) -> torch.device:
    """Return the device of the settings. For "auto" it is CUDA if available, else the CPU."""
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _fastest(
    network: nn.Module, inputs: Tensor, policy: Policy, batch_size: int
) -> tuple[str, Network]:
    start.info("choosing a runtime, which may take a minute")
    batch = inputs.repeat(math.ceil(batch_size / len(inputs)), 1, 1, 1)[:batch_size]
    candidates: dict[str, Network] = {}
    times: dict[str, tuple[float, float]] = {}
    for name in RUNTIMES:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            run = _load_verified(name, network, inputs, policy)
            times[name] = _time_image_and_batch(run, inputs[:1], batch)
        except RuntimeUnfit as error:
            log.warning("runtime: not %s: %s", name, error)
        else:
            candidates[name] = run
    if not candidates:
        log.warning("runtime: no other runtime is installed and fit; using torch")
        return "torch", network
    single, batched = _time_image_and_batch(network, inputs[:1], batch)
    candidates = {"torch": network, **candidates}
    times = {"torch": (single, batched), **times}

    def cost(name: str) -> float:
        return times[name][0] / single + times[name][1] / batched

    best = min(times, key=cost)
    timings = ", ".join(f"{name} {1e3 * a:.2f}/{1e3 * b:.2f}" for name, (a, b) in times.items())
    start.info("runtime %s; ms for 1/%d images: %s", best, batch_size, timings)
    return best, candidates[best]


def _load_verified(name: str, network: nn.Module, inputs: Tensor, policy: Policy) -> Network:
    """Load a network in a runtime, and check that it answers as torch does.

    Raises:
        RuntimeUnfit: if the runtime cannot load the network, raises, or has other answers.
    """
    with _any_error_as_unfit():
        try:
            program = to_onnx(export_program(network, inputs[:2]), image=INPUT, outputs=(OUTPUT,))
            run = {"onnxruntime": _onnxruntime, "openvino": _openvino}[name](program)
        except ImportError:
            fix = f"pip install 'stingy[{_extra(name)}]'"
            raise RuntimeUnfit(f"it is not installed: {fix}") from None
        except (NotExportable, ValueError) as error:
            raise RuntimeUnfit(str(error)) from None
        if not _same_answers(run, network, inputs, policy):
            raise RuntimeUnfit("its answers are not torch's")
    return run


@torch.inference_mode()
def _load_cuda_graphs(
    network: nn.Module, inputs: Tensor, policy: Policy, settings: Settings
) -> Network:
    """Capture a network, and check that the graph of each size answers as the network does.

    Raises:
        RuntimeUnfit: if the network cannot be captured, or has other answers.
    """
    reduced = settings.precision != "float32"
    sizes = padded_sizes(settings.batch_size, strict=settings.strict)
    # Without the cache of casts, whose tensors a graph must not keep.
    with (
        _any_error_as_unfit(),
        torch.autocast("cuda", torch.bfloat16, enabled=reduced, cache_enabled=False),
    ):
        run = CudaGraphs(network, inputs, sizes=sizes)
        for size in sizes:
            if not _same_answers(run, network, inputs[:size], policy, batch_size=size):
                raise RuntimeUnfit("its answers are not torch's")
    return run


@contextlib.contextmanager
def _any_error_as_unfit() -> Iterator[None]:
    """Turn every error into RuntimeUnfit, because a runtime may raise errors of any type."""
    try:
        yield
    except RuntimeUnfit:
        raise
    except Exception as error:  # noqa: BLE001  as above; its text may quote inputs
        failure = type(error).__name__
        raise RuntimeUnfit(f"expected answers to trial images, got {failure}") from None


def _onnxruntime(program: bytes) -> Network:
    session = onnx_session(program, threads=torch.get_num_threads())

    def run(inputs: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: inputs.numpy()})
        return torch.from_numpy(logits)

    return run


def _openvino(program: bytes) -> Network:
    import openvino

    core: Any = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 if the processor has it
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    try:
        request = core.compile_model(
            core.read_model(program), "CPU", options
        ).create_infer_request()
    except RuntimeError:  # its text quotes the program
        raise RuntimeUnfit("expected a network that OpenVINO can compile, got another") from None

    def run(inputs: Tensor) -> Tensor:
        logits = request.infer([inputs.contiguous().numpy()])[0]
        return torch.from_numpy(logits.copy())  # the next pass overwrites the buffer

    return run


def _extra(name: str) -> str:
    return "onnx" if name == "onnxruntime" else name


def _trial_inputs(preprocessing: Preprocessing, count: int, *, contiguous: bool) -> Tensor:
    """Make random images in the form of the network's input, [count, channels, height, width]."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, *preprocessing.size, preprocessing.channels)
    pixels = torch.randint(0, 256, shape, generator=generator)
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    # The strides are those of the engine's inputs, because torch chooses its convolution by them.
    inputs = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    return inputs.contiguous() if contiguous else inputs


@torch.inference_mode()
def _same_answers(
    run: Network, network: Network, inputs: Tensor, policy: Policy, *, batch_size: int = 32
) -> bool:
    """Compare two networks' answers to trial images, by `answers_agree`."""
    if isinstance(policy, NoisyPolicy):  # it gives no answer without its noise
        policy = build_policy("stingy", num_classes=policy.num_classes)
    batches = inputs.split(batch_size)
    answers = SparseLogits.concatenate([sanitize(policy, run(batch)) for batch in batches])
    expected = SparseLogits.concatenate([sanitize(policy, network(batch)) for batch in batches])
    return answers_agree(answers, expected)


def _time_image_and_batch(run: Network, one: Tensor, batch: Tensor) -> tuple[float, float]:
    """Measure the seconds of one image and of a batch.

    Raises:
        RuntimeUnfit: if the runtime raises.
    """
    with _any_error_as_unfit():
        return _time_pass(run, one), _time_pass(run, batch)


@torch.inference_mode()
def _time_pass(run: Network, inputs: Tensor) -> float:
    """Measure the seconds of the fastest pass.

    It runs as many passes as fit in `TIMED_S`, and at least three.
    """
    run(inputs)  # the first pass allocates
    times: list[float] = []
    while len(times) < 3 or sum(times) < TIMED_S:
        started = time.perf_counter()
        run(inputs)
        times.append(time.perf_counter() - started)
    return min(times)
