"""API keys and their query budgets, in one SQLite file that any number of processes may share.

A key is shown once and stored nowhere: the file holds its HMAC-SHA-256 digest under a pepper.
`0 <= used <= budget` holds always, because one conditional UPDATE both checks and charges.
"""

import contextlib
import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

KEY_PREFIX = "stingy"
MAX_BUDGET = 2**62

SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL,
    digest  BLOB NOT NULL UNIQUE,
    budget  INTEGER NOT NULL,
    used    INTEGER NOT NULL DEFAULT 0 CHECK (used BETWEEN 0 AND budget),
    created TEXT NOT NULL,
    revoked TEXT
) STRICT
"""


class StoreUnavailable(Exception):
    """The store of keys cannot be read or written; whoever asks must refuse."""


@dataclass(frozen=True)
class Key:
    """What is known of a key, the secret itself excepted. `budget` and `used` count images."""

    id: str
    name: str
    budget: int
    used: int
    created: str
    revoked: str | None


class KeyStore:
    """The keys under one state folder.

    Raises:
        StoreUnavailable: from every method, when the file is missing, locked, full or broken.
    """

    def __init__(self, state: Path, *, lock_timeout_s: float = 2.0) -> None:
        try:
            state.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._pepper = _pepper(state / "pepper")
            # Autocommit: each statement below is one transaction of its own.
            self._database = sqlite3.connect(
                state / "keys.sqlite3", timeout=lock_timeout_s, isolation_level=None
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(
                f"expected a writable state folder at {state}, got {type(error).__name__}"
            ) from None
        try:
            with _refusing():
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.execute(SCHEMA)
        except StoreUnavailable:
            self.close()
            raise

    def close(self) -> None:
        self._database.close()

    def create(self, name: str, *, budget: int) -> tuple[Key, str]:
        """A new key, and its text, which is told here and never again."""
        key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        text = f"{KEY_PREFIX}_{key_id}_{secret}"
        key = Key(key_id, name, budget, 0, _now(), None)
        with _refusing():
            self._database.execute(
                "INSERT INTO keys (id, name, digest, budget, created) VALUES (?, ?, ?, ?, ?)",
                (key.id, key.name, self._digest(text), key.budget, key.created),
            )
        return key, text

    def all(self) -> list[Key]:
        """Every key, oldest first, revoked ones too."""
        with _refusing():
            rows = self._database.execute(f"{SELECT} ORDER BY created, id").fetchall()
        return [Key(*row) for row in rows]

    def authenticate(self, text: str) -> Key | None:
        """The valid key of this text, or None. Looked up by digest: no secret is compared."""
        with _refusing():
            row = self._database.execute(
                f"{SELECT} WHERE digest = ? AND revoked IS NULL", (self._digest(text),)
            ).fetchone()
        return None if row is None else Key(*row)

    def reserve(self, key_id: str, images: int) -> bool:
        """Charge `images` to a key, all or nothing, before they are answered."""
        with _refusing():
            charged = self._database.execute(
                "UPDATE keys SET used = used + ? "
                "WHERE id = ? AND revoked IS NULL AND used + ? <= budget",
                (images, key_id, images),
            )
        return charged.rowcount == 1

    def refund(self, key_id: str, images: int) -> None:
        """Give back what was reserved for images that were not answered."""
        with _refusing():
            self._database.execute(
                "UPDATE keys SET used = used - ? WHERE id = ? AND used >= ?",
                (images, key_id, images),
            )

    def revoke(self, key_id: str) -> bool:
        """Make a key invalid from now on; False where there is no such valid key."""
        with _refusing():
            changed = self._database.execute(
                "UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (_now(), key_id)
            )
        return changed.rowcount == 1

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._pepper, text.encode("utf-8", "surrogateescape"), "sha256")


SELECT = "SELECT id, name, budget, used, created, revoked FROM keys"


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the store of keys failed: {type(error).__name__}") from None


def _pepper(path: Path) -> bytes:
    """The secret that digests are made under, created at the first use."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        # A link is made whole or not at all, so two first starts agree on one pepper.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    return path.read_bytes()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
