"""A network as CUDA graphs: a pass is one launch instead of one for each kernel.

A graph has one shape. So the network is captured for some batch sizes, and a pass is padded to the
next of them.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stingy_server.inference.forward import Network

WARM_UPS = 3  # passes before a capture, in which libraries choose their algorithms


@dataclass(frozen=True)
class _Captured:
    """A graph, with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    logits: Tensor


class CudaGraphs:
    """A network that is captured once for each size, then replayed.

    The graphs share one pool of memory. Passes of different threads follow each other on the
    device, and their copies to it may overlap.

    Args:
        network: maps inputs [batch, channels, height, width] to logits [batch, classes].
        examples: inputs on the CUDA device, at least as many as the largest size. The inputs of
            a pass have their shape, strides and type.
        sizes: the batch sizes to capture.
    """

    def __init__(self, network: Network, examples: Tensor, *, sizes: Iterable[int]) -> None:
        self._network = network  # a graph reads the weights, but does not keep them
        self._lock = threading.Lock()
        self._free = torch.cuda.Event()  # type: ignore[no-untyped-call]
        pool = torch.cuda.graph_pool_handle()
        # The largest first, because the others fit into its memory.
        captured = {
            size: _capture(network, examples[:size].clone(), pool)
            for size in sorted(sizes, reverse=True)
        }
        self._captured = dict(reversed(captured.items()))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the logits [batch, classes] of at most as many inputs as the largest size."""
        count = len(inputs)
        captured = next(item for size, item in self._captured.items() if size >= count)
        stream = torch.cuda.current_stream(inputs.device)
        with self._lock:
            stream.wait_event(self._free)  # another stream may still read the shared memory
            captured.inputs[:count].copy_(inputs)
            captured.inputs[count:].zero_()
            captured.graph.replay()
            logits = captured.logits[:count].clone()
            self._free.record(stream)
        return logits


def padded_sizes(batch_size: int, *, strict: bool) -> tuple[int, ...]:
    """Return the sizes to capture: the powers of two below `batch_size`, and `batch_size`.

    So at most half of a pass is padding. With `strict` every pass already has `batch_size` images.
    """
    if strict:
        return (batch_size,)
    powers = (2**power for power in range(batch_size.bit_length()))
    return (*(power for power in powers if power < batch_size), batch_size)


def _capture(network: Network, inputs: Tensor, pool: Any) -> _Captured:
    device = inputs.device
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            network(inputs)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    # Other models' threads may use the device meanwhile, so only this thread's calls are checked.
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        logits = network(inputs)
    return _Captured(graph, inputs, logits)
