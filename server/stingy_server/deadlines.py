"""Deadlines of equal length, for less than asyncio's timeouts cost.

Deadlines of one length end in the order in which they began. So they wait in a queue with one timer
for all, where `asyncio.timeout` sets and cancels a timer for each.
"""

import asyncio
from collections import deque
from types import TracebackType


class Deadline:
    """A context that raises TimeoutError if it is left after its time, and cancels what waits."""

    __slots__ = ("_cancelling", "_task", "expired", "when")

    def __init__(self, when: float) -> None:
        self.when = when
        self.expired = False
        self._task: asyncio.Task[object] | None = None

    @property
    def ended(self) -> bool:
        return self._task is None

    def begin(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101  a coroutine of a server runs in a task
        self._cancelling = self._task.cancelling()

    def expire(self) -> None:
        """Cancel the task, if it is still inside."""
        if self._task is not None:
            self.expired = True
            self._task.cancel()

    def __enter__(self) -> "Deadline":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        # As in asyncio.timeout: a task that was cancelled from elsewhere too stays cancelled.
        cancelled_here = self.expired and task is not None and task.uncancel() <= self._cancelling
        if cancelled_here and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error


class Deadlines:
    """All deadlines of one length on an event loop.

    Args:
        seconds: the length.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: deque[Deadline] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> Deadline:
        """Begin a deadline. Use it as a context around what must end in time."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting
        while waiting and waiting[0].ended:
            waiting.popleft()
        deadline = Deadline(loop.time() + self._seconds)
        deadline.begin()
        waiting.append(deadline)
        if self._timer is None:
            self._timer = loop.call_at(deadline.when, self._expire, loop)
        return deadline

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        waiting = self._waiting
        now = loop.time()
        while waiting and (waiting[0].ended or waiting[0].when <= now):
            waiting.popleft().expire()
        if waiting:
            self._timer = loop.call_at(waiting[0].when, self._expire, loop)
