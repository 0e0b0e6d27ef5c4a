"""The room for messages that are arriving. gRPC does not say their size before they are whole."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from stingy_server.settings import Settings
from stingy_server.shares import Shares

# Larger messages are refused by gRPC itself, without a code of the error table.
SLACK_BYTES = 4 * 2**20
LEAST = 8  # messages that may arrive at once, however small the memory is


def largest_message(settings: Settings) -> int:
    """Return the bytes that a message may have while it arrives."""
    return settings.max_body_bytes + SLACK_BYTES


class Arrivals:
    """The messages that arrive at once. Each may need the memory of the largest.

    So many may arrive as fit into `max_held_bytes`, and one key has its share of them. Others wait
    until one has arrived. A small message arrives at once.

    Args:
        settings: gives `max_held_bytes`, `max_body_bytes` and `share`.
    """

    def __init__(self, settings: Settings) -> None:
        most = max(LEAST, settings.max_held_bytes // largest_message(settings))
        self._shares = Shares(most, share=settings.share)
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def room(self, owner: str) -> AsyncIterator[None]:
        """Wait for room for a message of this owner, and keep it inside the block."""
        if not self._shares.take(owner):
            await self._wait(owner)
        try:
            yield
        finally:
            self._leave(owner)

    async def _wait(self, owner: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (owner, future)
        self._waiting.append(waiting)
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._waiting.remove(waiting)
            else:
                self._leave(owner)  # it got the room in the same turn
            raise

    def _leave(self, owner: str) -> None:
        """Give room back, to those that have waited longest."""
        self._shares.give_back(owner)
        left: deque[tuple[str, asyncio.Future[None]]] = deque()
        for waiting in self._waiting:
            if not waiting[1].done() and self._shares.take(waiting[0]):
                waiting[1].set_result(None)
            else:
                left.append(waiting)
        self._waiting = left
