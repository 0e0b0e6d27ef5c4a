"""The health of a store: whether its last call or probe was answered in time."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from stingy_server.store.base import StoreUnavailable

log = logging.getLogger("stingy")

PROBE_S = 1.0


class StoreHealth:
    """The health of one store, as the calls of one event loop found it.

    A call that fails makes the store unhealthy. From then on a probe runs at most once a second, in
    a thread of its own, until the store answers again. Meanwhile other calls are refused untried,
    so that nobody waits for a store that does not answer. The log has one line for each change.

    Args:
        probe: makes an empty transaction. Raises StoreUnavailable if the store does not answer.

    Attributes:
        ok: whether the store answers.
    """

    def __init__(self, probe: Callable[[], None]) -> None:
        self.ok = True
        self._probe = probe
        self._checked = 0.0  # when a call or a probe last ended
        self._probing = False
        self._closed = False
        self._thread: ThreadPoolExecutor | None = None

    def check(self) -> bool:
        """Return whether the store answers. Start a probe if no call ended within a second."""
        if time.monotonic() - self._checked > PROBE_S:
            self._start_probe()
        return self.ok

    def succeed(self) -> None:
        """Record that a call was answered."""
        if not self.ok:
            log.warning("the store answers: requests are served")
            self.ok = True
        self._checked = time.monotonic()

    def fail(self) -> None:
        """Record that a call was not answered in time, and probe the store until it answers."""
        self._mark_down()
        self._start_probe()

    def close(self) -> None:
        """Stop probing."""
        self._closed = True
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def _mark_down(self) -> None:
        if self.ok:
            log.error("the store does not answer: requests are refused until it does")
            self.ok = False
        self._checked = time.monotonic()

    def _start_probe(self) -> None:
        if self._probing or self._closed:
            return
        self._probing = True
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1)
        outcome = asyncio.get_running_loop().run_in_executor(self._thread, self._probe)
        outcome.add_done_callback(self._end_probe)

    def _end_probe(self, outcome: asyncio.Future[None]) -> None:
        self._probing = False
        if outcome.cancelled() or self._closed:
            return
        error = outcome.exception()
        if error is None:
            self.succeed()
            return
        self._mark_down()
        asyncio.get_running_loop().call_later(PROBE_S, self._start_probe)
        if not isinstance(error, StoreUnavailable):
            raise error
