"""What every store is: its statements, its cursors and its one error."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol


class StoreUnavailable(Exception):
    """The state cannot be read or written; whoever asks must refuse."""


class Cursor(Protocol):
    """What a statement found or changed."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Store(Protocol):
    """What SQLite and PostgreSQL do each in their own way; statements are written as for SQLite."""

    begin: str
    append_only: str  # what makes the ledger so

    def execute(self, statement: str, values: Any = ()) -> Cursor: ...

    def run(self, script: str) -> None:
        """Many statements, inside the transaction that is open."""

    def version(self, pepper: bytes) -> int:
        """Of the schema; 0 where there is none yet."""

    def set_version(self, version: int, pepper: bytes) -> None: ...

    def hold(self, names: Iterable[str]) -> None:
        """Wait until no other transaction holds one of them, and keep them until this one ends."""

    def rollback(self) -> None: ...

    def close(self) -> None: ...
