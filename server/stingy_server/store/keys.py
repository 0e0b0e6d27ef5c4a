"""API keys. A key is shown once and never stored: the database has its keyed digest.

The server reads a key's validity from the database at every request, so a revocation holds at once.
"""

import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from stingy_server.rates.rate import parse_rate
from stingy_server.store.budget import Budget
from stingy_server.store.budgets import Budgets, key_model_owner, key_owner
from stingy_server.store.database import Database
from stingy_server.store.key import PRINCIPAL, Caller, Key, KeySettings, Limits
from stingy_server.store.key_rows import (
    NO_BUDGET,
    SELECT,
    VALID,
    VALID_ID,
    WITH_BUDGETS,
    join_models,
    one_image,
    read_budget,
    read_caller,
    read_key,
    valid_query,
)
from stingy_server.store.ledger import Ledger, event_entry
from stingy_server.times import stamp

PREFIX = "stingy"
MAX_NAME_LENGTH = 64


class Keys:
    """The keys in a database.

    Raises:
        StoreUnavailable: from every method.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._budgets = Budgets(database)
        self._ledger = Ledger(database)
        self._hmac = hmac.new(database.pepper, digestmod="sha256")

    def create(
        self,
        name: str,
        *,
        budget: int | None,
        per_day: int | None = None,
        per_month: int | None = None,
        tier: str = "full",
        rate: str | None = None,
        request_rate: str | None = None,
        expires: datetime | None = None,
        models: frozenset[str] | None = None,
        model_limits: Mapping[str, Limits] | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> tuple[Key, str]:
        """Create a key. Return it and its text, which cannot be read later.

        Args:
            budget: images in all; None is no limit.
            per_day: images in a day of UTC; None is no limit.
            per_month: images in a month of UTC; None is no limit.
            rate: images in a period; None is no limit.
            request_rate: requests in a period; None is the rate of the settings.
            models: the names of the models that it may query; None is all.
            model_limits: its own budgets for some models, by name.
            detail: what the ledger says about it, such as who does it; None for no entry.

        Raises:
            ValueError: the name or a rate is not valid.
        """
        check_name(name)
        key_id, text = _new_text()
        until = None if expires is None else stamp(expires)
        limited = model_limits or {}
        key = Key(
            key_id,
            name,
            tier,
            rate,
            request_rate,
            stamp(),
            until,
            None,
            models,
            tuple(sorted(limited)),
        )
        _check_rates(key)
        with self._database.transaction():
            self._add(key, text, Limits(budget, per_day, per_month))
            for model, limits in limited.items():
                self._set_limits(key_model_owner(key_id, model), limits)
            self._record(key_id, "key_created", detail)
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
            self._add(key, text, Limits(budget))
        return text

    def _add(self, key: Key, text: str, limits: Limits) -> None:
        self._database.execute(
            "INSERT INTO keys (id, name, tier, rate, request_rate, digest, created, expires, "
            "models, model_budgets) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key.id,
                key.name,
                key.tier,
                key.rate,
                key.request_rate,
                self._digest(text),
                key.created,
                key.expires,
                join_models(key.models),
                " ".join(key.model_budgets),
            ),
        )
        self._set_limits(key_owner(key.id), limits)

    def _set_limits(self, owner: str, limits: Limits) -> None:
        self._budgets.set(
            owner,
            total=limits.total,
            day_total=limits.per_day,
            month_total=limits.per_month,
        )

    def _record(self, key_id: str, event: str, detail: Mapping[str, Any] | None) -> None:
        """Record an event in the ledger, if something is to be said about it."""
        if detail is not None:
            self._ledger.append_all([event_entry(stamp(), event, key=key_id, detail=detail)])

    def rotate(self, key_id: str, *, detail: Mapping[str, Any] | None = None) -> str | None:
        """Replace the text of a valid key and return the new one; None if the key is not valid.

        The old text is invalid from now on.

        Args:
            detail: as in `create`.
        """
        if key_id.startswith(PRINCIPAL):
            return None
        _, text = _new_text(key_id)
        with self._database.transaction(locks=("keys",)):
            digest = self._digest(text)
            changed = self._update(key_id, "digest = ?", digest, event="key_rotated", detail=detail)
        return text if changed else None

    def revoke(self, key_id: str, *, detail: Mapping[str, Any] | None = None) -> bool:
        """Make a key invalid from now on. Return False if there is no such valid key.

        Args:
            detail: as in `create`.
        """
        with self._database.transaction(locks=("keys",)):
            return self._update(key_id, "revoked = ?", stamp(), event="key_revoked", detail=detail)

    def set(
        self,
        key_id: str,
        change: Callable[[KeySettings], KeySettings],
        *,
        describe: Callable[[KeySettings, KeySettings], Mapping[str, Any] | None],
    ) -> tuple[KeySettings, KeySettings] | None:
        """Change the settings of a valid key, for every process from its next charge on.

        Args:
            change: maps the settings to the new ones.
            describe: maps both to what the ledger says about it; None changes nothing.

        Returns:
            The settings before and after; None if there is no such valid key.
        """
        with self._database.transaction(locks=("keys", key_owner(key_id))):
            row = self._database.execute(f"{SELECT} WHERE id = ?", (key_id,)).fetchone()
            if row is None or (key := read_key(row)).revoked is not None:
                return None
            before = KeySettings(key, self.limits(key))
            after = change(before)
            detail = describe(before, after)
            if detail is None:
                return before, before
            new = replace(after.key, model_budgets=tuple(sorted(after.limits.keys() - {""})))
            _check_rates(new)
            self._update(
                key_id,
                "tier = ?, rate = ?, request_rate = ?, expires = ?, models = ?, model_budgets = ?",
                new.tier,
                new.rate,
                new.request_rate,
                new.expires,
                join_models(new.models),
                " ".join(new.model_budgets),
                event="key_set",
                detail=detail,
            )
            for model, limits in sorted(after.limits.items()):
                self._set_limits(_owner(key_id, model), limits)
        return before, KeySettings(new, after.limits)

    def changes(self) -> int:
        """Return the count of the changes of keys, which every process reads before it charges."""
        (count,) = self._database.execute("SELECT count FROM key_changes").fetchone()
        return int(count)

    def _update(
        self,
        key_id: str,
        assignments: str,
        *values: Any,
        event: str,
        detail: Mapping[str, Any] | None,
    ) -> bool:
        """Change a key inside the open transaction, and count and record the change.

        Return whether there is such a valid key.
        """
        statement = f"UPDATE keys SET {assignments} WHERE id = ? AND revoked IS NULL"  # noqa: S608
        changed = self._database.execute(statement, (*values, key_id)).rowcount == 1
        if changed:
            self._database.execute("UPDATE key_changes SET count = count + 1")
            self._record(key_id, event, detail)
        return changed

    def all(self) -> list[tuple[Key, Budget]]:
        """Return every key with its budget, oldest first, revoked keys included."""
        size = len(fields(Budget))
        rows = self._database.execute(WITH_BUDGETS).fetchall()
        return [(read_key(row[:-size]), read_budget(row[-size:])) for row in rows]

    def named(self, text: str) -> list[Key]:
        """Return the key of this id or, if there is none, the keys of this name.

        Of the keys of one name it returns those that are not revoked, if there are any.
        """
        where = f"{SELECT} WHERE id = ?"
        rows = self._database.execute(where, (text,)).fetchall()
        if not rows:
            where = f"{SELECT} WHERE name = ? ORDER BY created, id"
            rows = self._database.execute(where, (text,)).fetchall()
        found = [read_key(row) for row in rows]
        return [key for key in found if key.revoked is None] or found

    def budget(self, key: Key) -> Budget:
        return self._budgets.get(key_owner(key.id)) or NO_BUDGET

    def model_budgets(self, key: Key) -> dict[str, Budget]:
        """Return the budgets that a key has for single models, by the models' names."""
        found = {model: self._budgets.get(_owner(key.id, model)) for model in key.model_budgets}
        return {model: budget for model, budget in found.items() if budget is not None}

    def limits(self, key: Key) -> dict[str, Limits]:
        """Return the limits of a key, under "", and of its budgets for single models."""
        budgets = {"": self.budget(key)} | self.model_budgets(key)
        return {model: Limits.of(budget) for model, budget in budgets.items()}

    def authenticate(self, text: str) -> Caller | None:
        """Return the caller of a valid key's text, or None.

        Look up a digest; no secret is compared.
        """
        values = {"digest": self._digest(text), **one_image()}
        row = self._database.execute(VALID, values).fetchone()
        return None if row is None else read_caller(row)

    def find(self, key_id: str) -> Caller | None:
        """Return the caller of a valid key's id, or None. Nothing shows that it has the key."""
        row = self._database.execute(VALID_ID, {"id": key_id, **one_image()}).fetchone()
        return None if row is None else read_caller(row)

    def authenticate_all(self, texts: Sequence[str]) -> list[Caller | None]:
        """Return the valid key of each text, or None, with one query to the store."""
        digests = [self._digest(text) for text in texts]
        # The number of places is a power of two, so that few different statements are prepared.
        places = 1 << (len(digests) - 1).bit_length()
        padded = digests + digests[-1:] * (places - len(digests))
        values: dict[str, Any] = {f"d{place}": digest for place, digest in enumerate(padded)}
        rows = self._database.execute(valid_query(places), values | one_image())
        found = {digest: read_caller(row) for digest, *row in rows}
        return [found.get(digest) for digest in digests]

    def _digest(self, text: str) -> bytes:
        digest = self._hmac.copy()  # creating a new one each time would cost twice as much
        digest.update(text.encode("utf-8", "surrogateescape"))
        return digest.digest()


def check_name(name: str) -> None:
    """Check the name of a new key.

    Raises:
        ValueError: it is empty, too long, or has characters that cannot be printed.
    """
    if not name.strip():
        found = "an empty one"
    elif len(name.strip()) > MAX_NAME_LENGTH:
        found = f"{len(name.strip())}"
    elif not name.isprintable():
        found = "others"
    else:
        return
    raise ValueError(f"expected a name of 1 to {MAX_NAME_LENGTH} printable characters, got {found}")


def _owner(key_id: str, model: str) -> str:
    """Return the owner of a key's budget for one model, or for all if it is ""."""
    return key_model_owner(key_id, model) if model else key_owner(key_id)


def _check_rates(key: Key) -> None:
    """Raise ValueError if a rate of a key is not valid."""
    for rate in (key.rate, key.request_rate):
        if rate is not None:
            parse_rate(rate)


def _new_text(key_id: str | None = None) -> tuple[str, str]:
    key_id = key_id or secrets.token_hex(4)
    return key_id, f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
