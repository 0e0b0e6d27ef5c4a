"""HTTP to an untrusted model server: pooled, timed and bounded. Only a plain 200 is accepted.

The client follows no redirects, uses no proxies of the environment and decompresses no answers.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import aiohttp
from multidict import CIMultiDictProxy

from stingy_protection.files import read_regular_file
from stingy_server.errors import UPSTREAM_FAILED, UPSTREAM_TIMEOUT, Refusal

MAX_KEY_FILE_BYTES = 2**16
# Less than the 5 s after which uvicorn, and so MLServer, drops an idle connection, because a
# request must not be sent on a connection that is being closed.
KEEPALIVE_S = 2.0
READY_BYTES = 2**16  # of the answer to a probe


@dataclass(frozen=True, eq=False)
class Reply:
    """The headers and the body of an answer with the status 200."""

    headers: CIMultiDictProxy[str]
    body: bytes


class UpstreamError(Exception):
    """The model server gave no valid answer.

    The text is our own. It is for the log and is never sent to a client.
    """

    def __init__(self, reason: str, *, refusal: Refusal = UPSTREAM_FAILED) -> None:
        super().__init__(reason)
        self.refusal = refusal


class Upstream:
    """The connections to one address of a model server.

    Args:
        url: the address of every query.
        ready_url: the address that says whether the server is ready.
        timeout_s: seconds from requesting a connection, or from the first byte sent on an open
            one, to the last byte read.
        connections: the largest number of concurrent queries.
        key_file: TorchServe's key file, which changes with every start of TorchServe.
    """

    def __init__(
        self,
        url: str,
        *,
        ready_url: str,
        timeout_s: float,
        connections: int,
        key_file: Path | None = None,
    ) -> None:
        self._url = url
        self._ready_url = ready_url
        self._timeout_s = timeout_s
        self._connections = connections
        self._key_file = key_file
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes, headers: Mapping[str, str], *, max_bytes: int) -> Reply:
        """Send a request and return the answer.

        Args:
            max_bytes: the largest answer, in bytes. A longer one is not read to its end.

        Raises:
            UpstreamError: if the answer is missing, late, too long, or has another status than
                200.
        """
        return await self._exchange("POST", self._url, body, headers, max_bytes)

    async def ready(self) -> bool:
        """Return whether the server says that it is ready.

        It says so by the status 200 and any body but a JSON object with `"ready": false`.
        """
        try:
            reply = await self._exchange("GET", self._ready_url, None, {}, READY_BYTES)
            document = json.loads(reply.body or b"{}")
        except UpstreamError:
            return False
        except (ValueError, RecursionError):
            return True
        return not (isinstance(document, dict) and document.get("ready") is False)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _exchange(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], max_bytes: int
    ) -> Reply:
        if self._key_file is not None:
            headers = {**headers, "Authorization": f"Bearer {_inference_key(self._key_file)}"}
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(method, url, body, headers, max_bytes)
        except TimeoutError:
            raise UpstreamError("no answer in time", refusal=UPSTREAM_TIMEOUT) from None
        except aiohttp.ClientError as error:
            raise UpstreamError(f"the exchange failed: {type(error).__name__}") from None

    async def _send(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], max_bytes: int
    ) -> Reply:
        if self._session is None:  # made here, because connections belong to this event loop
            self._session = self._open_session()
        request = self._session.request(
            method, url, data=body, headers=headers, allow_redirects=False
        )
        async with request as response:
            if response.status != HTTPStatus.OK:
                raise UpstreamError(f"expected the status 200, got {response.status}")
            read = bytearray()
            async for piece in response.content.iter_any():
                read += piece
                if len(read) > max_bytes:
                    raise UpstreamError(f"expected at most {max_bytes} bytes, got more")
            return Reply(response.headers, bytes(read))

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections + 1,  # one for probes, which must not wait for queries
                keepalive_timeout=KEEPALIVE_S,
            ),
            timeout=aiohttp.ClientTimeout(total=None),  # `post` has one timeout for all
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )


def _inference_key(key_file: Path) -> str:
    """Read the token for predictions from the file that TorchServe writes at its start.

    Raises UpstreamError if the file cannot be read or its key has unprintable characters.
    """
    try:
        content = read_regular_file(key_file, max_bytes=MAX_KEY_FILE_BYTES)
        key = json.loads(content)["inference"]["key"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UpstreamError("expected a readable key file of TorchServe") from None
    if not (isinstance(key, str) and key.isascii() and key.isprintable()):
        raise UpstreamError("expected a key of printable characters in TorchServe's key file")
    return key
