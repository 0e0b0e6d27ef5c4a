"""The charges of one event-loop turn, made together: keys are checked again, then budgets charged.

A process keeps the callers that it has looked up, and the store counts the changes of keys. The
transaction of a turn reads that count first. A key that was kept under another count is looked up
anew, so no image is charged to a key that was revoked, rotated or changed before.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from stingy_server.store.budget import Crossing, Reservation
from stingy_server.store.budgets import Budgets, parts_of_owner
from stingy_server.store.database import Database
from stingy_server.store.key import PRINCIPAL, Caller, Key, is_current, is_token
from stingy_server.store.keys import Keys
from stingy_server.store.ledger import Entry, Ledger, event_entry
from stingy_server.times import stamp

KEPT = 4096  # callers; the one that was kept first is dropped


class Invalid(Enum):
    """The outcome of a charge that was not tried, because of its key.

    Attributes:
        KEY: the key is not valid any more.
        CHANGED: the key was changed, and may be limited in another way now.
    """

    KEY = "key"
    CHANGED = "changed"


INVALID_KEY: Final = Invalid.KEY
CHANGED_KEY: Final = Invalid.CHANGED


class Charge(NamedTuple):
    """A charge to make: the text of the key, the key, the owners of the budgets, and the images.

    Attributes:
        key: the key as the request was admitted with it.
    """

    secret: str
    key: Key
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
    ledger: Ledger
    recheck_token: Callable[[str], Caller | None] | None = None

    def charge_all(self, charges: Sequence[Charge]) -> list[Reservation | Invalid | None]:
        """Make the charges of a turn inside the open transaction.

        Charges of the same owners are made as one, if the budgets cover all of them, and else one
        by one in their order. The ledger gets an entry for each share of a limit that they reach.

        Returns:
            For each charge: the reservation, or None if a budget does not cover it, or INVALID_KEY,
            or CHANGED_KEY. Of reservations made as one, the first has the shares of limits reached.
        """
        outcomes: list[Reservation | Invalid | None] = [INVALID_KEY] * len(charges)
        groups: dict[tuple[str, ...], list[int]] = {}
        changes = self.keys.changes()
        for place, charge in enumerate(charges):
            caller = self._valid_caller(charge.secret, changes)
            if caller is None:
                continue
            if caller.key is charge.key or caller.key == charge.key:
                groups.setdefault(charge.owners, []).append(place)
            else:
                outcomes[place] = CHANGED_KEY
        for owners, places in groups.items():
            images = [charges[place].images for place in places]
            together = self.budgets.reserve(owners, sum(images)) if len(places) > 1 else None
            for place, count in zip(places, images, strict=True):
                if together is None:
                    outcome = self.budgets.reserve(owners, count)
                else:
                    outcome = together._replace(images=count)
                    together = together._replace(crossings=())
                outcomes[place] = outcome
                if outcome is not None and outcome.crossings:
                    self.ledger.append_all([_entry(crossing) for crossing in outcome.crossings])
        return outcomes

    def _valid_caller(self, secret: str, changes: int) -> Caller | None:
        caller = self.known.find(secret)
        if caller is not None and caller.changes == changes:
            return caller
        if self.recheck_token is not None and is_token(secret):
            caller = self.recheck_token(secret)
        else:
            caller = self.keys.authenticate(secret)
        if caller is None:
            self.known.drop(secret)
        else:
            self.known.keep(secret, caller)
        return caller


def _entry(crossing: Crossing) -> Entry:
    """Return the ledger entry of a share of a limit that was reached."""
    _, key_id, model = parts_of_owner(crossing.owner)
    return event_entry(
        stamp(),
        f"budget_{crossing.percent}",
        key=key_id,
        model=model,
        detail={
            "owner": crossing.owner,
            "period": crossing.period,
            "used": crossing.used,
            "limit": crossing.limit,
        },
    )
