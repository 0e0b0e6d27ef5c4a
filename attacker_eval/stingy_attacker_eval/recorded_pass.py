"""A training pass as a CUDA graph: one launch instead of one for each kernel.

Small networks are bound by their launches. The batches of a training run have one shape, so one
recording serves all of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Pass = Callable[..., Tensor]
"""A pass: tensors to the detached loss. It leaves the gradients in the network."""

WARM_UPS = 3  # passes before the recording, in which libraries choose their algorithms


class RecordedPass:
    """A pass that runs as it is a few times, is recorded once, and is then replayed.

    A pass that cannot be recorded runs as it is every time: one that waits for the device, for
    example, or draws from a random generator of its own.

    Args:
        run: the pass. It must launch the same kernels at every call, and replace gradients instead
            of adding to them.
    """

    def __init__(self, run: Pass) -> None:
        self._run = run
        self._calls = 0
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._recording: _Recording | None = None

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Return the loss, whose value the next call replaces.

        arguments: what the pass takes. Shapes and types are the same at every call.
        """
        self._calls += 1
        if self._calls == WARM_UPS + 1:
            self._recording = self._record(arguments)
        if self._recording is not None:
            return self._recording.replay(arguments)
        if self._calls > WARM_UPS:
            return self._run(*arguments)
        # A recording needs a stream of its own, and gradients belong to the stream of their pass.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._run(*arguments)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _record(self, arguments: tuple[Tensor, ...]) -> "_Recording | None":
        graph = torch.cuda.CUDAGraph()
        arguments = tuple(argument.clone() for argument in arguments)
        random = _default_generator()
        state = random.get_state()
        try:
            # Other threads may use the device meanwhile, so only this thread's calls are checked.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                loss = self._run(*arguments)
        except RuntimeError:
            # A failed recording leaves the generator in it, where it refuses to draw.
            random.graphsafe_set_state(torch.Generator(random.device).set_state(state))
            return None
        return _Recording(graph, arguments, loss)


class _Recording:
    def __init__(
        self, graph: torch.cuda.CUDAGraph, arguments: tuple[Tensor, ...], loss: Tensor
    ) -> None:
        self._graph, self._arguments, self._loss = graph, arguments, loss

    def replay(self, arguments: tuple[Tensor, ...]) -> Tensor:
        for target, argument in zip(self._arguments, arguments, strict=True):
            target.copy_(argument)
        self._graph.replay()
        return self._loss


def _default_generator() -> torch.Generator:
    generator: torch.Generator = torch.cuda.default_generators[torch.cuda.current_device()]
    return generator
