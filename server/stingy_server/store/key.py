"""A key, its settings, and the caller that a key or a token makes of a request."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from stingy_server.store.budget import Budget
from stingy_server.times import stamp

PRINCIPAL = "oidc-"  # begins the id of a principal, which has tokens and no key
TOKEN = re.compile(r"[^.]*\.[^.]*\.[^.]*")


@dataclass(frozen=True)
class Key:
    """The stored properties of a key, without its secret text. Times are in UTC.

    Attributes:
        tier: the name of the tier that limits its answers.
        rate: in images, such as "600/minute"; None is no limit.
        request_rate: in requests, such as "100/second"; None is the rate of the settings.
        models: the names of the models that it may query; None is all.
        model_budgets: the names of the models for which it has a budget of its own.
    """

    id: str
    name: str
    tier: str
    rate: str | None
    request_rate: str | None
    created: str
    expires: str | None
    revoked: str | None
    models: frozenset[str] | None = None
    model_budgets: tuple[str, ...] = ()

    def may_query(self, model: str) -> bool:
        """Return whether the key may query a model of this name."""
        return self.models is None or model in self.models


@dataclass(frozen=True)
class Limits:
    """The limits of one budget, in images; None is no limit.

    Attributes:
        total: in all.
        per_day: in a day of UTC.
        per_month: in a month of UTC.
    """

    total: int | None = None
    per_day: int | None = None
    per_month: int | None = None

    @classmethod
    def of(cls, budget: Budget) -> "Limits":
        return cls(budget.total, budget.day_total, budget.month_total)


@dataclass(frozen=True)
class KeySettings:
    """The settings of a key that an operator can change.

    Attributes:
        key: the properties. Its `model_budgets` follow from `limits`.
        limits: the limits of its budgets, by the model they are for; "" is for all models.
    """

    key: Key
    limits: Mapping[str, Limits]


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


def is_token(text: str) -> bool:
    """Return whether a text has the form of a JSON Web Token. No key has dots."""
    return TOKEN.fullmatch(text) is not None


def is_current(key: Key) -> bool:
    """Return whether a key has not expired."""
    return key.expires is None or key.expires > stamp()
