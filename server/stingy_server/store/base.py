"""The interface of a store: its statements, its cursors and its errors."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class StoreUnavailable(Exception):
    """An error of the state, which cannot be read or written. The caller must refuse.

    Attributes:
        down: whether the store did not answer at all, so that other calls would fail likewise.
    """

    def __init__(self, text: str, *, down: bool = False) -> None:
        super().__init__(text)
        self.down = down


class StoreBusy(StoreUnavailable):
    """A lock that another writer holds for too long. Nothing was written."""


class OutcomeUnknown(StoreUnavailable):
    """A commit that failed. The store may have committed, so the writes count as made."""


class Cursor(Protocol):
    """The rows that a statement found or changed."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Store(Protocol):
    """The operations that SQLite and PostgreSQL do differently. Statements are those of SQLite.

    Each thread has a connection of its own.
    """

    append_only: str  # the script that makes the ledger append-only
    deletable: str  # the script that permits deletions until `append_only_anew`
    append_only_anew: str  # the script that ends `deletable`

    def begin(self, locks: Iterable[str], wait_s: float) -> str:
        """Return the statement that opens a transaction and locks names until it ends.

        Args:
            locks: the names.
            wait_s: seconds that the transaction waits for each lock.
        """

    def execute(self, statement: str, values: Any = ()) -> Cursor: ...

    def run(self, script: str) -> None:
        """Run the statements of a script inside the open transaction."""

    def is_new(self) -> bool:
        """Return whether no release has used the store yet."""

    def version(self, pepper: bytes) -> int:
        """Return the version of the schema; 0 if there is none yet.

        Raises:
            StoreUnavailable: the store was first used with another pepper.
        """

    def set_version(self, version: int, pepper: bytes) -> None: ...

    def rollback(self) -> None: ...

    def wait_for_locks(self, wait: bool) -> None:
        """Set whether this thread waits for locks of a file, or gets a `StoreBusy` at once."""

    def close(self) -> None: ...
