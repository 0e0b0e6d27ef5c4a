"""Opening the present state, of this release or of an earlier one, in a file or in PostgreSQL."""

from pathlib import Path

from stingy_server.maintenance.reader import Reader, open_file, require_psycopg
from stingy_server.store.backends.schema import FIRST_VERSION, VERSION
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.database import FILE


def open_reader(state: Path, store: str | None) -> Reader:
    """Open the present state, of this release or of an earlier one.

    Raises:
        StoreUnavailable: there is none, it cannot be read, or a later release wrote it.
    """
    if store is None:
        reader: Reader = open_file(state / FILE)
    else:
        require_psycopg()
        # Imported here, because psycopg is an optional dependency.
        from stingy_server.maintenance.postgres_state import open_postgres

        reader = open_postgres(store)
    if reader.version not in range(FIRST_VERSION, VERSION + 1):
        reader.close()
        raise StoreUnavailable(
            f"expected state of version {FIRST_VERSION} to {VERSION}, got {reader.version}"
        )
    return reader
