"""The open connections of a process: their deadlines, and which is dropped when there are too many.

Connections without a valid key are dropped before those of customers, and the oldest first. No
connection whose request is being answered is dropped for another. One order holds silent strangers
and those who were refused: otherwise refused ones would last, and a client that has just connected
would be dropped before it could send its head.
"""

import asyncio
from enum import IntEnum
from typing import Protocol

from stingy_server.shares import Shares

NEVER = float("inf")


class Rank(IntEnum):
    """The claim of a connection to stay open. The first two have one order."""

    HEADLESS = 0  # it has not sent a complete head yet, or only bytes of another protocol
    STRANGER = 1  # its last request had no valid key, or one that has its share of connections
    CUSTOMER = 2  # its last request had one, and it waits for the next
    BUSY = 3  # its request is being answered


class Connection(Protocol):
    """A connection as the table needs it.

    Deadlines are in seconds of the loop's clock. `owner` is the key of a customer's connection.
    """

    rank: Rank
    owner: str | None
    input_deadline: float
    output_deadline: float

    def expire(self) -> None:
        """Close the connection, whose deadline has passed."""

    def drop(self) -> None:
        """Close the connection at once, without waiting for the client."""


class DropCounter(Protocol):
    """A counter of dropped connections."""

    def count_drop(self, reason: str) -> None: ...


class ConnectionTable:
    """The open connections of one process.

    A key alone keeps at most half of the connections as a customer's, see `Shares`.

    One timer checks the deadlines of all connections. A timer for each request would cost more.

    Args:
        most: connections that may be open at once.
        tick_s: seconds between two checks of the deadlines.
        counter: counts the connections that are dropped.
    """

    def __init__(self, *, most: int, tick_s: float, counter: DropCounter) -> None:
        self._most = most
        self._tick_s = tick_s
        self._counter = counter
        # Dictionaries keep their order: the first connection is the oldest.
        keyless: dict[Connection, None] = {}
        self._ranks: tuple[dict[Connection, None], ...] = (keyless, keyless, {}, {})
        self._shares = Shares(most)
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return self._size

    def add(self, connection: Connection) -> bool:
        """Add a connection as headless. Drop another one, or return False, if there are too many.

        The caller drops a connection that was not added.
        """
        if self._size >= self._most and not self._drop_one():
            self._counter.count_drop("busy")
            return False
        connection.rank = Rank.HEADLESS
        self._ranks[Rank.HEADLESS][connection] = None
        self._size += 1
        if self._timer is None:
            self._start_timer()
        return True

    def move(self, connection: Connection, rank: Rank, owner: str = "") -> None:
        """Give a connection another rank, as its youngest.

        Args:
            owner: the key of a customer's connection. If it has its share, the connection counts
                as a stranger's.
        """
        if self._take(connection):
            if rank is Rank.CUSTOMER:
                if self._shares.take(owner):
                    connection.owner = owner
                else:
                    rank = Rank.STRANGER
            connection.rank = rank
            self._ranks[rank][connection] = None

    def remove(self, connection: Connection) -> None:
        """Remove a connection, if it is here."""
        if self._take(connection):
            self._size -= 1

    def _take(self, connection: Connection) -> bool:
        """Take a connection and its owner's share back. Return False if it is not here."""
        if self._ranks[connection.rank].pop(connection, self) is self:
            return False
        if connection.owner is not None:
            self._shares.give_back(connection.owner)
            connection.owner = None
        return True

    def _drop_one(self) -> bool:
        """Drop the connection that is missed least. Return False if all are busy."""
        for rank in (Rank.STRANGER, Rank.CUSTOMER):
            for connection in self._ranks[rank]:
                self.remove(connection)
                self._counter.count_drop(connection.rank.name.lower())
                connection.drop()
                return True
        return False

    def _start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._tick_s, self._check_deadlines, loop)

    def _check_deadlines(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        late = [
            connection
            for rank in self._ranks[Rank.STRANGER :]
            for connection in rank
            if connection.input_deadline < now or connection.output_deadline < now
        ]
        for connection in late:
            connection.expire()
        if self._size:
            self._start_timer()
