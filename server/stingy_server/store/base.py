"""The interface of a store: its statements, its cursors and its one error."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class StoreUnavailable(Exception):
    """An error of the state, which cannot be read or written. The caller must refuse."""


class Cursor(Protocol):
    """The rows that a statement found or changed."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Store(Protocol):
    """The operations that SQLite and PostgreSQL do differently. Statements are those of SQLite."""

    begin: str
    append_only: str  # the script that makes the ledger append-only

    def execute(self, statement: str, values: Any = ()) -> Cursor: ...

    def run(self, script: str) -> None:
        """Run the statements of a script inside the open transaction."""

    def version(self, pepper: bytes) -> int:
        """Return the version of the schema; 0 if there is none yet."""

    def set_version(self, version: int, pepper: bytes) -> None: ...

    def lock(self, names: Iterable[str]) -> None:
        """Lock names until this transaction ends; wait while another transaction locks one."""

    def rollback(self) -> None: ...

    def close(self) -> None: ...
