"""The charges of one event-loop turn, made together: keys are checked again, then budgets charged.

A process keeps the callers that it has looked up, and the store counts the changes of keys. The
transaction of a turn reads that count first. A key that was kept under another count is looked up
anew, so no image is charged to a key that was revoked or rotated before.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from stingy_server.store.budgets import Budgets, Reservation
from stingy_server.store.database import Database
from stingy_server.store.keys import PRINCIPAL, Caller, Keys, is_current, is_token

KEPT = 4096  # callers; the one that was kept first is dropped


class Invalid(Enum):
    """The outcome of a charge whose key is not valid any more."""

    KEY = "key"


INVALID_KEY: Final = Invalid.KEY


class Charge(NamedTuple):
    """A charge to make: the text of the key, the owners of the budgets, and the images."""

    secret: str
    owners: tuple[str, ...]
    images: int


class KnownCallers:
    """The callers that this process has looked up, by a digest of their keys' texts."""

    def __init__(self, pepper: bytes) -> None:
        self._digest = hashlib.blake2b(digest_size=16, key=pepper)
        self._callers: dict[bytes, Caller] = {}

    def find(self, secret: str) -> Caller | None:
        """Return the caller of a text, if it was looked up before and its key has not expired.

        Its key may have been revoked meanwhile. A charge finds out.
        """
        caller = self._callers.get(self._name(secret))
        return caller if caller is not None and is_current(caller.key) else None

    def keep(self, secret: str, caller: Caller) -> None:
        """Keep a caller in place of an earlier one of the same text."""
        if len(self._callers) >= KEPT:
            self._callers.pop(next(iter(self._callers)), None)
        self._callers[self._name(secret)] = caller

    def drop(self, secret: str) -> None:
        self._callers.pop(self._name(secret), None)

    def drop_principals(self) -> None:
        """Drop the callers of tokens, because their issuer has other keys now."""
        self._callers = {
            name: caller
            for name, caller in list(self._callers.items())
            if not caller.key.id.startswith(PRINCIPAL)
        }

    def _name(self, secret: str) -> bytes:
        digest = self._digest.copy()
        digest.update(secret.encode("utf-8", "surrogateescape"))
        return digest.digest()


@dataclass(frozen=True)
class Charges:
    """The charges in a database.

    Attributes:
        recheck_token: returns the caller of a token, without a wait; None if there are keys alone.

    Raises:
        StoreUnavailable: from `charge_all`.
    """

    database: Database
    keys: Keys
    budgets: Budgets
    known: KnownCallers
    recheck_token: Callable[[str], Caller | None] | None = None

    def charge_all(self, charges: Sequence[Charge]) -> list[Reservation | Invalid | None]:
        """Make the charges of a turn inside the open transaction.

        Charges of the same owners are made as one, if the budgets cover all of them, and else one
        by one in their order.

        Returns:
            For each charge: the reservation, or None if a budget does not cover it, or INVALID_KEY.
        """
        outcomes: list[Reservation | Invalid | None] = [INVALID_KEY] * len(charges)
        groups: dict[tuple[str, ...], list[int]] = {}
        changes = self.keys.changes()
        for place, charge in enumerate(charges):
            if self._is_valid(charge.secret, changes):
                groups.setdefault(charge.owners, []).append(place)
        for owners, places in groups.items():
            images = [charges[place].images for place in places]
            together = self.budgets.reserve(owners, sum(images)) if len(places) > 1 else None
            for place, count in zip(places, images, strict=True):
                if together is None:
                    outcomes[place] = self.budgets.reserve(owners, count)
                else:
                    outcomes[place] = together._replace(images=count)
        return outcomes

    def _is_valid(self, secret: str, changes: int) -> bool:
        caller = self.known.find(secret)
        if caller is not None and caller.changes == changes:
            return True
        if self.recheck_token is not None and is_token(secret):
            caller = self.recheck_token(secret)
        else:
            caller = self.keys.authenticate(secret)
        if caller is None:
            self.known.drop(secret)
            return False
        self.known.keep(secret, caller)
        return True
