"""The state as the console reads it: opened to look alone, and given up when its file has gone."""

import os
from pathlib import Path

from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import FILE, Database, open_to_read

Identity = tuple[int, int]


class StateGone(StoreUnavailable):
    """A state whose file is no longer there."""


class StateView:
    """A state that is read and never written. One thread alone may use it.

    Args:
        state: the folder.
        store: the address of a PostgreSQL, or None for the file in the folder.
    """

    def __init__(self, state: Path, store: str | None) -> None:
        self._state = state
        self._store = store
        self._open: tuple[Database, Identity | None] | None = None

    def database(self) -> Database:
        """Return the open state. A file that was replaced is opened anew.

        Raises:
            StateGone: the file is not there.
            StoreUnavailable: it cannot be read, or is of another version.
        """
        try:
            identity = self._identity()
        except OSError:
            self.close()
            raise StateGone(f"expected a state folder at {self._state}, got none") from None
        if self._open is not None and self._open[1] == identity:
            return self._open[0]
        self.close()
        database = open_to_read(self._state, self._store)
        self._open = database, identity
        return database

    def close(self) -> None:
        """Close the state until the next call of `database`."""
        if self._open is not None:
            self._open[0].close()
            self._open = None

    def _identity(self) -> Identity | None:
        """Return what tells one file from the next; None for a PostgreSQL."""
        if self._store is not None:
            return None
        found = os.stat(self._state / FILE)
        return found.st_dev, found.st_ino
