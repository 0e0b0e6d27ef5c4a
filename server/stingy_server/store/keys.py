"""API keys. A key is shown once and never stored: the database has its keyed digest.

The server reads a key's validity from the database at every request, so a revocation holds at once.
"""

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

from stingy_server.rates.rate_limits import parse_rate
from stingy_server.store.budgets import COVERED, Budget, Budgets, key_owner, month_of, today
from stingy_server.store.database import Database

PREFIX = "stingy"
PRINCIPAL = "oidc-"  # begins the id of a principal, which has tokens and no key
TOKEN = re.compile(r"[^.]*\.[^.]*\.[^.]*")
MAX_NAME_LENGTH = 64
COLUMNS = "id, name, tier, rate, request_rate, created, expires, revoked"
SELECT = f"SELECT {COLUMNS} FROM keys"  # noqa: S608
# After the key: 1 if its budget covers one more image, and the count of the changes of keys.
VALID = f"""
SELECT {COLUMNS}, (SELECT 1 FROM budgets WHERE owner = 'key:' || id AND {COVERED}),
    (SELECT count FROM key_changes)
FROM keys WHERE digest = :digest AND revoked IS NULL
"""  # noqa: S608
VALID_ID = VALID.replace("digest = :digest", "id = :id")


@dataclass(frozen=True)
class Key:
    """The stored properties of a key, without its secret text. Times are in UTC.

    Attributes:
        tier: the name of the tier that limits its answers.
        rate: in images, such as "600/minute"; None is no limit.
        request_rate: in requests, such as "100/second"; None is the rate of the settings.
    """

    id: str
    name: str
    tier: str
    rate: str | None
    request_rate: str | None
    created: str
    expires: str | None
    revoked: str | None


class Caller(NamedTuple):
    """The valid key of a request, as it was looked up.

    Attributes:
        spent: whether its budget covers no further image.
        changes: the count of the changes of keys at that time.
        groups: the owners of budgets that it shares with others, if it is a principal.
    """

    key: Key
    spent: bool
    changes: int
    groups: tuple[str, ...] = ()


class Keys:
    """The keys in a database.

    Raises:
        StoreUnavailable: from every method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._budgets = Budgets(database)
        self._hmac = hmac.new(database.pepper, digestmod="sha256")

    def create(
        self,
        name: str,
        *,
        budget: int | None,
        per_day: int | None = None,
        tier: str = "full",
        rate: str | None = None,
        request_rate: str | None = None,
        expires: datetime | None = None,
    ) -> tuple[Key, str]:
        """Create a key. Return it and its text, which cannot be read later.

        Args:
            budget: images in all; None is no limit.
            per_day: images in a day of UTC; None is no limit.
            rate: images in a period; None is no limit.
            request_rate: requests in a period; None is the rate of the settings.

        Raises:
            ValueError: the name or a rate is not valid.
        """
        if not name.isprintable() or not 0 < len(name.strip()) <= MAX_NAME_LENGTH:
            raise ValueError(f"expected a name of 1..{MAX_NAME_LENGTH} printable characters")
        for each in (rate, request_rate):
            if each is not None:
                parse_rate(each)
        key_id, text = _new_text()
        until = None if expires is None else stamp(expires)
        key = Key(key_id, name, tier, rate, request_rate, stamp(), until, None)
        with self._database.transaction():
            self._add(key, text, budget, per_day)
        return key, text

    def create_first(self, *, budget: int) -> str | None:
        """Create a key if there is none, and return its text.

        If several processes call this at once, one of them gets a text and the others get None.
        """
        key_id, text = _new_text()
        with self._database.transaction(locks=("keys",)):
            if self._database.execute("SELECT id FROM keys LIMIT 1").fetchone() is not None:
                return None
            key = Key(key_id, "first", "full", None, None, stamp(), None, None)
            self._add(key, text, budget, None)
        return text

    def _add(self, key: Key, text: str, budget: int | None, per_day: int | None) -> None:
        self._database.execute(
            "INSERT INTO keys (id, name, tier, rate, request_rate, digest, created, expires) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key.id,
                key.name,
                key.tier,
                key.rate,
                key.request_rate,
                self._digest(text),
                key.created,
                key.expires,
            ),
        )
        self._budgets.set(key_owner(key.id), total=budget, day_total=per_day)

    def rotate(self, key_id: str) -> str | None:
        """Replace the text of a valid key and return the new one; None if the key is not valid.

        The old text is invalid from now on.
        """
        if key_id.startswith(PRINCIPAL):
            return None
        _, text = _new_text(key_id)
        changed = self._change(
            "UPDATE keys SET digest = ? WHERE id = ? AND revoked IS NULL",
            (self._digest(text), key_id),
        )
        return text if changed else None

    def revoke(self, key_id: str) -> bool:
        """Make a key invalid from now on. Return False if there is no such valid key."""
        return self._change(
            "UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (stamp(), key_id)
        )

    def changes(self) -> int:
        """Return the count of the changes of keys, which every process reads before it charges."""
        (count,) = self._database.execute("SELECT count FROM key_changes").fetchone()
        return int(count)

    def _change(self, statement: str, values: tuple[Any, ...]) -> bool:
        """Change a key, and count the change. Return whether there is such a valid key."""
        with self._database.transaction(locks=("keys",)):
            changed = self._database.execute(statement, values).rowcount == 1
            if changed:
                self._database.execute("UPDATE key_changes SET count = count + 1")
        return changed

    def all(self) -> list[tuple[Key, Budget]]:
        """Return every key with its budget, oldest first, revoked keys included."""
        rows = self._database.execute(f"{SELECT} ORDER BY created, id").fetchall()
        return [(key, self.budget(key)) for key in (Key(*row) for row in rows)]

    def budget(self, key: Key) -> Budget:
        budget = self._budgets.get(key_owner(key.id))
        # A key without a budget was not created completely, so it gets no images.
        return budget or Budget(total=0, used=0, day_total=None, day=0, day_used=0)

    def authenticate(self, text: str) -> Caller | None:
        """Return the caller of a valid key's text, or None.

        Look up a digest; no secret is compared.
        """
        values = {"digest": self._digest(text), **_one_image()}
        row = self._database.execute(VALID, values).fetchone()
        return None if row is None else _caller(row)

    def find(self, key_id: str) -> Caller | None:
        """Return the caller of a valid key's id, or None. Nothing shows that it has the key."""
        row = self._database.execute(VALID_ID, {"id": key_id, **_one_image()}).fetchone()
        return None if row is None else _caller(row)

    def authenticate_all(self, texts: Sequence[str]) -> list[Caller | None]:
        """Return the valid key of each text, or None, with one query to the store."""
        digests = [self._digest(text) for text in texts]
        # The number of places is a power of two, so that few different statements are prepared.
        places = 1 << (len(digests) - 1).bit_length()
        padded = digests + digests[-1:] * (places - len(digests))
        values: dict[str, Any] = {f"d{place}": digest for place, digest in enumerate(padded)}
        rows = self._database.execute(_valid_query(places), values | _one_image())
        found = {digest: _caller(row) for digest, *row in rows}
        return [found.get(digest) for digest in digests]

    def _digest(self, text: str) -> bytes:
        digest = self._hmac.copy()  # creating a new one each time would cost twice as much
        digest.update(text.encode("utf-8", "surrogateescape"))
        return digest.digest()


def _one_image() -> dict[str, Any]:
    """Return the values with which `COVERED` decides about one image now."""
    day = today()
    return {"images": 1, "today": day, "month": month_of(day)}


@cache
def _valid_query(places: int) -> str:
    any_of = ", ".join(f":d{place}" for place in range(places))
    return VALID.replace(f"SELECT {COLUMNS}", f"SELECT digest, {COLUMNS}").replace(
        "= :digest", f"IN ({any_of})"
    )


def _caller(row: Sequence[Any]) -> Caller | None:
    """Return the caller of a row of `VALID`, or None if its key has expired."""
    *columns, covered, changes = row
    key = Key(*columns)
    return Caller(key, covered is None, changes) if is_current(key) else None


def is_token(text: str) -> bool:
    """Return whether a text has the form of a JSON Web Token. No key has dots."""
    return TOKEN.fullmatch(text) is not None


def is_current(key: Key) -> bool:
    """Return whether a key has not expired."""
    return key.expires is None or key.expires > stamp()


def _new_text(key_id: str | None = None) -> tuple[str, str]:
    key_id = key_id or secrets.token_hex(4)
    return key_id, f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"


def stamp(moment: datetime | None = None) -> str:
    """Format a time, or the present one, in UTC. All times have one form and compare as text."""
    moment = datetime.now(UTC) if moment is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")
