"""The fetches of an issuer's public keys: in the background, few, bounded, and in nobody's way."""

import asyncio
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import aiohttp
import orjson

from stingy_server.oidc.signing_keys import InvalidKeySet, SigningKey, find_key, parse_key_set
from stingy_server.web_settings import OidcSettings, is_safe_url

log = logging.getLogger("stingy")

PAUSE_S = 60.0  # between the starts of two fetches
DEADLINE_S = 3.0  # of a fetch
MAX_BYTES = 2**18
REFRESH_S = 300.0  # the age from which on keys are fetched anew
MAX_AGE_S = 3600.0  # the age from which on keys are not used
DISCOVERY: Final = "/.well-known/openid-configuration"


class KeySource:
    """The keys of one issuer, as they were fetched last. Fetches belong to one event loop.

    One fetch runs at a time, and at most one begins a minute, whatever tokens come. A fetch that
    fails leaves the keys as they are, until they are an hour old.

    Args:
        on_change: called after the issuer has published other keys.
    """

    def __init__(self, settings: OidcSettings, *, on_change: Callable[[], None]) -> None:
        self._settings = settings
        self._on_change = on_change
        self._content = b""
        self._keys: tuple[SigningKey, ...] = ()
        self._fetched_at = float("-inf")
        self._next_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    def find(self, *, key_id: str | None, algorithm: str) -> SigningKey | None:
        """Return a key that was fetched, or None."""
        if _now() - self._fetched_at > MAX_AGE_S:
            return None
        return find_key(self._keys, key_id=key_id, algorithm=algorithm)

    async def find_or_fetch(self, *, key_id: str | None, algorithm: str) -> SigningKey | None:
        """Return a key, or None. An unknown one is fetched, if a fetch may begin or one runs."""
        found = self.find(key_id=key_id, algorithm=algorithm)
        if found is None or _now() - self._fetched_at > REFRESH_S:
            self.begin()
        if found is None and self._fetching is not None:
            await asyncio.shield(self._fetching)  # has a deadline and raises nothing
            found = self.find(key_id=key_id, algorithm=algorithm)
        return found

    def begin(self) -> None:
        """Begin a fetch, unless one runs or began within the last minute."""
        now = _now()
        if self._fetching is None and now >= self._next_at:
            self._next_at = now + PAUSE_S
            self._fetching = asyncio.create_task(self._fetch())

    async def close(self) -> None:
        """End the fetch that runs."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                content = await fetch_key_set(self._settings)
            keys = await asyncio.to_thread(parse_key_set, content)
        except TimeoutError:
            log.error("oidc: expected the issuer's keys within %g s, got none", DEADLINE_S)
        except InvalidKeySet as error:
            log.error("oidc: %s", error)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.error("oidc: the issuer's keys cannot be read: %s", type(error).__name__)
        else:
            self._keys, self._fetched_at = keys, _now()
            if content != self._content:
                self._content = content
                self._on_change()
        finally:
            self._fetching = None


async def fetch_key_set(settings: OidcSettings) -> bytes:
    """Fetch the JSON Web Key Set of an issuer, from the address that it or the settings name.

    Raises:
        InvalidKeySet: an answer is too large, or has another status than 200, or the discovery
            document is another issuer's or names an address that is not safe.
        aiohttp.ClientError: an exchange failed.
    """
    async with aiohttp.ClientSession(
        headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=DEADLINE_S),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    ) as session:
        url = settings.jwks_url
        if url is None:
            url = _parse_discovery(
                await _get(session, settings.issuer.rstrip("/") + DISCOVERY), settings.issuer
            )
        return await _get(session, url)


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url, allow_redirects=False) as response:
        if response.status != HTTPStatus.OK:
            raise InvalidKeySet(f"expected the status 200 of the issuer, got {response.status}")
        read = bytearray()
        async for piece in response.content.iter_any():
            read += piece
            if len(read) > MAX_BYTES:
                raise InvalidKeySet(f"expected at most {MAX_BYTES} bytes of the issuer, got more")
        return bytes(read)


def _parse_discovery(content: bytes, issuer: str) -> str:
    try:
        document = orjson.loads(content)
        named, url = document["issuer"], document["jwks_uri"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise InvalidKeySet("expected a discovery document, got another document") from None
    if named != issuer:
        raise InvalidKeySet("expected the discovery document of the issuer, got another's")
    if not (isinstance(url, str) and is_safe_url(url)):
        raise InvalidKeySet("expected a jwks_uri with https://, got another")
    return url


def _now() -> float:
    return time.monotonic()
