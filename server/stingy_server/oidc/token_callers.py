"""The callers of tokens: a token is checked, its tier looked up, then its principal in the store.

A token that fails anywhere opens nothing: there is no other principal, tier or key to fall back on.
"""

from collections.abc import Callable

from stingy_server.oidc.key_source import KeySource
from stingy_server.oidc.principals import Principals
from stingy_server.oidc.signing_keys import SigningKey
from stingy_server.oidc.tokens import Claims, InvalidToken, check_token, read_head
from stingy_server.settings import FULL_TIER, Settings
from stingy_server.store.budgets import Budgets
from stingy_server.store.database import Database
from stingy_server.store.group_commit import StoreExecutor
from stingy_server.store.key import Caller
from stingy_server.store.keys import Keys
from stingy_server.web_settings import OidcSettings


class TokenCallers:
    """The callers of the tokens of one issuer.

    Args:
        on_change: called after the issuer has published other keys.

    Raises:
        StoreUnavailable: from every method that returns a caller.
    """

    def __init__(
        self,
        oidc: OidcSettings,
        settings: Settings,
        *,
        database: Database,
        keys: Keys,
        budgets: Budgets,
        executor: StoreExecutor,
        on_change: Callable[[], None],
    ) -> None:
        self._settings = oidc
        self._tiers = frozenset({FULL_TIER, *settings.tiers})
        self._executor = executor
        self._source = KeySource(oidc, on_change=on_change)
        self._principals = Principals(database, keys=keys, budgets=budgets, settings=oidc)
        self._principals.prepare()

    def start(self) -> None:
        """Begin to fetch the issuer's keys. The server does not wait for them."""
        self._source.begin()

    async def close(self) -> None:
        """End the fetch that runs."""
        await self._source.close()

    async def look_up(self, text: str) -> Caller | None:
        """Return the caller of a token, or None if it is not valid or its principal was revoked.

        An unknown key's id may begin a fetch, for which this waits.
        """
        try:
            head = read_head(text)
            key = await self._source.find_or_fetch(key_id=head.key_id, algorithm=head.algorithm)
            claims, tier = self._check(text, key)
        except InvalidToken:
            return None
        return await self._executor.run(lambda: self._principals.find_or_create(claims, tier=tier))

    def recheck(self, text: str) -> Caller | None:
        """Return the caller of a token as `look_up` does, without a fetch or a new row."""
        try:
            head = read_head(text)
            key = self._source.find(key_id=head.key_id, algorithm=head.algorithm)
            claims, tier = self._check(text, key)
        except InvalidToken:
            return None
        return self._principals.find(claims, tier=tier)

    def _check(self, text: str, key: SigningKey | None) -> tuple[Claims, str]:
        """Return the claims of a token and the name of its tier.

        Raises:
            InvalidToken: there is no key for it, it is not valid, or its tier is not configured.
        """
        if key is None:
            raise InvalidToken
        claims = check_token(text, key, self._settings)
        tier = self._settings.tier if self._settings.tier_claim is None else claims.tier
        if tier not in self._tiers:
            raise InvalidToken
        return claims, tier
