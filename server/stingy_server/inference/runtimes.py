"""What runs a network on the CPU: torch, ONNX Runtime or OpenVINO, each behind one function.

Only the network is handed over; the policy stays with the gate in this process. Another runtime is
taken only where it answers trial images as torch does, within what P5 promises without `strict`.
"""

import contextlib
import importlib.util
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

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
from stingy_server.inference.export import NotExportable, as_onnx, exported, onnx_session
from stingy_server.inference.grid_comparison import answers_agree
from stingy_server.settings import Settings

log = logging.getLogger("stingy")

# From inputs float32 [batch, 3, height, width] to logits [batch, classes].
Network: TypeAlias = Callable[[Tensor], Tensor]

RUNTIMES = ("onnxruntime", "openvino")  # beside torch
INPUT, OUTPUT = "input", "logits"
TRIALS = 256
TIMED_S = 0.5


class RuntimeUnfit(Exception):
    """A runtime cannot run this network, or does not answer as torch does."""


def chosen_runtime(
    network: nn.Module, *, preprocessing: Preprocessing, policy: Policy, settings: Settings
) -> tuple[str, Network]:
    """The runtime that the settings name, or for "auto" the fastest fit one, and the network in it.

    Raises:
        RuntimeUnfit: the named runtime is not to be had. "auto" takes torch then, and says so.
    """
    device = device_of(settings)
    network = network.eval().requires_grad_(False)
    # As the pixels come: else every pass would bring its weights into their layout anew.
    network = network.to(device).to(memory_format=torch.channels_last)
    if settings.runtime == "torch":
        return "torch", network
    if settings.precision != "float32" or device.type != "cpu":
        if settings.runtime != "auto":
            raise RuntimeUnfit("expected device = cpu and precision = float32, got others")
        return "torch", network
    if settings.runtime != "auto":
        inputs = _trial_inputs(preprocessing, TRIALS)
        return settings.runtime, _fit(settings.runtime, network, inputs, policy)
    if settings.strict:  # the pick may differ after a restart, and answers by a step with it
        log.warning("runtime: strict answers need a runtime that is named; taking torch")
        return "torch", network
    return _fastest(network, _trial_inputs(preprocessing, TRIALS), policy, settings.batch_size)


def device_of(settings: Settings) -> torch.device:
    """The device of the settings, "auto" resolved."""
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _fastest(
    network: nn.Module, inputs: Tensor, policy: Policy, batch_size: int
) -> tuple[str, Network]:
    batch = inputs.repeat(math.ceil(batch_size / len(inputs)), 1, 1, 1)[:batch_size]
    candidates: dict[str, Network] = {}
    times: dict[str, tuple[float, float]] = {}
    for name in RUNTIMES:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            run = _fit(name, network, inputs, policy)
            times[name] = _both_timed(run, inputs[:1], batch)
        except RuntimeUnfit as error:
            log.warning("runtime: not %s: %s", name, error)
        else:
            candidates[name] = run
    if not candidates:
        log.warning("runtime: nothing beside torch is installed and fit; taking torch")
        return "torch", network
    single, batched = _both_timed(network, inputs[:1], batch)
    candidates = {"torch": network, **candidates}
    times = {"torch": (single, batched), **times}

    def cost(name: str) -> float:
        return times[name][0] / single + times[name][1] / batched

    best = min(times, key=cost)
    timings = ", ".join(f"{name} {1e3 * a:.2f}/{1e3 * b:.2f}" for name, (a, b) in times.items())
    log.info("runtime: taking %s; ms for 1/%d images: %s", best, batch_size, timings)
    return best, candidates[best]


def _fit(name: str, network: nn.Module, inputs: Tensor, policy: Policy) -> Network:
    """The network in this runtime, once it has answered as torch does.

    Raises:
        RuntimeUnfit: it cannot be loaded there, raises, or answers otherwise.
    """
    with _third_party():
        try:
            program = as_onnx(exported(network, inputs[:2]), image=INPUT, outputs=(OUTPUT,))
            run = {"onnxruntime": _onnxruntime, "openvino": _openvino}[name](program)
        except ImportError:
            fix = f"pip install 'stingy[{_extra(name)}]'"
            raise RuntimeUnfit(f"it is not installed: {fix}") from None
        except (NotExportable, ValueError) as error:
            raise RuntimeUnfit(str(error)) from None
        if not _answer_alike(run, network, inputs, policy):
            raise RuntimeUnfit("its answers are not torch's")
    return run


@contextlib.contextmanager
def _third_party() -> Iterator[None]:
    """A runtime may raise anything: whatever it is, the runtime is unfit."""
    try:
        yield
    except RuntimeUnfit:
        raise
    except Exception as error:  # noqa: BLE001  as above; its text may quote what it computed on
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
        "INFERENCE_PRECISION_HINT": "f32",  # where the processor has bfloat16, it would be that
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
        return torch.from_numpy(logits.copy())  # the request's own buffer is written again

    return run


def _extra(name: str) -> str:
    return "onnx" if name == "onnxruntime" else name


def _trial_inputs(preprocessing: Preprocessing, count: int) -> Tensor:
    """Noise as the network gets it, [count, 3, height, width]."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *preprocessing.size, 3), generator=generator)
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    # Its strides are those of the engine's inputs, by which torch chooses how to convolve.
    return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)


@torch.inference_mode()
def _answer_alike(run: Network, network: Network, inputs: Tensor, policy: Policy) -> bool:
    """The same classes on every trial image, and hardly a score that is off by a step."""
    if isinstance(policy, NoisyPolicy):  # which cannot be asked without its noise
        policy = build_policy("stingy", num_classes=policy.num_classes)
    batches = [inputs[start : start + 32] for start in range(0, len(inputs), 32)]
    answers = SparseLogits.concatenate([sanitize(policy, run(batch)) for batch in batches])
    expected = SparseLogits.concatenate([sanitize(policy, network(batch)) for batch in batches])
    return answers_agree(answers, expected)


def _both_timed(run: Network, one: Tensor, batch: Tensor) -> tuple[float, float]:
    """Seconds of one image and of a batch.

    Raises:
        RuntimeUnfit: the runtime raises.
    """
    with _third_party():
        return _timed(run, one), _timed(run, batch)


@torch.inference_mode()
def _timed(run: Network, inputs: Tensor) -> float:
    """Seconds of the fastest pass, of as many as fit in `TIMED_S`, three at least."""
    run(inputs)  # the first pass allocates
    times: list[float] = []
    while len(times) < 3 or sum(times) < TIMED_S:
        started = time.perf_counter()
        run(inputs)
        times.append(time.perf_counter() - started)
    return min(times)
