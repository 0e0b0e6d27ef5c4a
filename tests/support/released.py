"""States that release 0.1.0 wrote: a folder with a file, and the same rows in a PostgreSQL.

`state_0_1_0.sql` was made by that release's own code in PostgreSQL 15 and by `pg_dump`.
"""

from pathlib import Path

FIXTURES = Path(__file__).parents[1] / "server" / "store" / "fixtures"
RELEASED = FIXTURES / "state_0_1_0"
KEY_ID = "d76f3119"
KEY = "stingy_d76f3119_1YbX7nTF0aF9nvQnZMk3PsDdQbfulGIazoB-1r7ekGU"


def released_postgres(address: str) -> None:
    """Fill an empty database with the state of release 0.1.0, whose pepper is in `RELEASED`."""
    import psycopg

    script = (FIXTURES / "state_0_1_0.sql").read_text(encoding="utf-8")
    with psycopg.connect(address) as connection:
        connection.execute(script.encode())
