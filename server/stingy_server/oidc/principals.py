"""The principals of an issuer in the store: rows beside the keys, which no text opens.

A principal's row has a budget, can be revoked, and is listed like that of a key.
"""

import hashlib
import json
import secrets
from dataclasses import replace

from stingy_server.oidc.tokens import Claims
from stingy_server.settings import FULL_TIER
from stingy_server.store.budgets import Budgets, key_owner
from stingy_server.store.database import Database
from stingy_server.store.key import PRINCIPAL, Caller, is_current
from stingy_server.store.keys import MAX_NAME_LENGTH, Keys
from stingy_server.times import stamp
from stingy_server.web_settings import OidcSettings

ALL = "oidc:all"  # the owner of the budget of all principals
ORGANISATION = "oidc:organisation:"
KNOWN = 4096  # principals whose rows are known to be there


class Principals:
    """The principals in a database.

    Raises:
        StoreUnavailable: from every method.
    """

    def __init__(
        self, database: Database, *, keys: Keys, budgets: Budgets, settings: OidcSettings
    ) -> None:
        self._database = database
        self._keys = keys
        self._budgets = budgets
        self._settings = settings
        self._prepared: set[tuple[str, ...]] = set()

    def prepare(self) -> None:
        """Set the budget of all principals together."""
        self._budgets.set(
            ALL,
            total=self._settings.total_budget,
            day_total=self._settings.total_budget_per_day,
        )

    def find_or_create(self, claims: Claims, *, tier: str) -> Caller | None:
        """Return the caller of a valid token, or None if its principal was revoked.

        The first token of a principal makes its row and its budget.
        """
        name = self._name(claims)
        rows = (name, *self._groups(claims))
        if rows not in self._prepared:
            self._create(name, claims)
            if len(self._prepared) >= KNOWN:
                self._prepared.clear()
            self._prepared.add(rows)
        return self.find(claims, tier=tier)

    def find(self, claims: Claims, *, tier: str) -> Caller | None:
        """Return the caller of a valid token, or None if its principal was revoked or is new."""
        caller = self._keys.find(self._name(claims))
        if caller is None:
            return None
        expires = stamp(claims.expires)
        if caller.key.expires is not None:
            expires = min(expires, caller.key.expires)
        key = replace(caller.key, tier=tier, expires=expires)
        if not is_current(key):
            return None
        return caller._replace(key=key, groups=self._groups(claims))

    def _create(self, name: str, claims: Claims) -> None:
        settings, subject = self._settings, claims.subject
        shown = subject if subject.isprintable() and len(subject) <= MAX_NAME_LENGTH else name
        with self._database.transaction():
            created = self._database.execute(
                "INSERT INTO keys (id, name, tier, digest, created) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO NOTHING",
                # A random digest, so that no text is the key of this row.
                (name, shown, FULL_TIER, secrets.token_bytes(32), stamp()),
            )
            if created.rowcount == 1:
                self._budgets.set(
                    key_owner(name), total=settings.budget, day_total=settings.budget_per_day
                )
            if (organisation := self._organisation(claims)) is not None:
                self._budgets.set(
                    organisation,
                    total=settings.organisation_budget,
                    day_total=settings.organisation_budget_per_day,
                )

    def _groups(self, claims: Claims) -> tuple[str, ...]:
        """Return the owners of the budgets that a principal shares with others."""
        organisation = self._organisation(claims)
        return (ALL,) if organisation is None else (ALL, organisation)

    def _organisation(self, claims: Claims) -> str | None:
        if claims.organisation is None:
            return None
        return ORGANISATION + self._digest("organisation", claims.organisation)

    def _name(self, claims: Claims) -> str:
        return PRINCIPAL + self._digest("subject", claims.subject)

    def _digest(self, kind: str, value: str) -> str:
        named = json.dumps([kind, self._settings.issuer, value]).encode()
        return hashlib.blake2b(named, digest_size=16, key=self._database.pepper).hexdigest()
