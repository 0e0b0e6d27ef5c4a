"""A webhook: signed POSTs to one address, made by a thread of their own.

A receiver that hangs, refuses or never ends its answer delays later POSTs and nothing else. The
queue is bounded, and what does not fit is dropped and counted.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import orjson

from stingy_protection.files import read_regular_file
from stingy_server.errors import ConfigurationError
from stingy_server.settings import Settings

log = logging.getLogger("stingy")

QUEUED = 256  # POSTs that may wait
TIMEOUT_S = 5.0  # of one try, from the look-up of the address to the head of the answer
DELAYS_S = (1.0, 4.0, 16.0)  # before each further try
CLOSE_S = 2.0  # that a stop waits for the queue
MIN_SECRET, MAX_SECRET = 16, 4096  # bytes
TIMESTAMP, SIGNATURE = "X-Stingy-Timestamp", "X-Stingy-Signature"

Outcome = Literal["delivered", "failed", "dropped"]
_random = random.Random()  # noqa: S311


class Webhook:
    """The receiver of notices, and the thread that sends them in their order.

    Args:
        url: its address. Redirects are not followed.
        secret: the key of the signatures.
        count: counts a POST by its outcome. The thread calls it too.
        delays_s: seconds before each further try.
    """

    def __init__(
        self,
        url: str,
        secret: bytes,
        *,
        count: Callable[[Outcome], None],
        delays_s: tuple[float, ...] = DELAYS_S,
    ) -> None:
        self._url = url
        self._secret = secret
        self._count = count
        self._delays_s = delays_s
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUED)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, document: Mapping[str, Any]) -> None:
        """Queue a document. This never waits, and drops the document if the queue is full."""
        try:
            self._queue.put_nowait(orjson.dumps(document))
        except queue.Full:
            log.error("a webhook is dropped, because %d wait already", QUEUED)
            self._count("dropped")
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Try what is queued once more, for `CLOSE_S` at most, and end the thread."""
        if self._thread is None:
            return
        self._closing.set()
        with contextlib.suppress(queue.Full):  # the thread then ends with the process
            self._queue.put_nowait(None)
        self._thread.join(CLOSE_S)
        if left := sum(body is not None for body in tuple(self._queue.queue)):
            log.error("%d webhooks were not delivered before the stop", left)

    def _run(self) -> None:
        while (body := self._queue.get()) is not None:
            delivered = self._deliver(body)
            if not delivered:
                log.error("a webhook was not delivered")
            self._count("delivered" if delivered else "failed")

    def _deliver(self, body: bytes) -> bool:
        """Send a body until the receiver accepts it, or no tries are left."""
        for delay in (*self._delays_s, None):
            try:
                status = asyncio.run(self._post(body))
                if 200 <= status < 300:
                    return True
                log.warning("a webhook was answered with status %d", status)
            except Exception as error:  # noqa: BLE001  the thread must go on
                log.warning("a webhook failed with %s", type(error).__name__)
            # The spread keeps several processes from trying at the same moments.
            if delay is None or self._closing.wait(delay * _random.uniform(0.5, 1.0)):
                return False
        return False

    async def _post(self, body: bytes) -> int:
        """Send a body once. Return the status of the receiver's answer."""
        # Imported here, because aiohttp costs each start a fifth of a second.
        import aiohttp

        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "stingy",
            TIMESTAMP: timestamp,
            SIGNATURE: sign(self._secret, timestamp, body),
        }
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status


def open_webhook(
    settings: Settings, *, count: Callable[[Outcome], None]
) -> tuple[Webhook | None, list[str]]:
    """Open the webhook that the settings name, if any. Return it, and the faults.

    Args:
        count: as of `Webhook`.
    """
    url, file = settings.webhook_url, settings.webhook_secret_file
    if url is None and file is None:
        return None, []
    if url is None or file is None:
        return None, ["webhook: expected webhook_url and webhook_secret_file, got one of them"]
    try:
        secret = read_secret(file)
    except ConfigurationError as error:
        return None, [*error.faults]
    return Webhook(url, secret, count=count), []


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return the signature of a POST: HMAC-SHA256 over its timestamp, a dot and its body, in hex.

    Args:
        timestamp: seconds since 1970, as the header has them.
    """
    return hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def read_secret(path: Path) -> bytes:
    """Read the secret of the signatures, without white space at its ends.

    Raises:
        ConfigurationError: the file cannot be read, or has too few or too many bytes.
    """
    name = f"webhook_secret_file: {path}"
    try:
        secret = read_regular_file(path, max_bytes=MAX_SECRET).strip()
    except OSError:
        fault = f"expected a regular file of at most {MAX_SECRET} bytes, got none that is readable"
        raise ConfigurationError([f"{name}: {fault}"]) from None
    if len(secret) < MIN_SECRET:
        fault = f"expected at least {MIN_SECRET} bytes, got {len(secret)}: openssl rand -hex 32"
        raise ConfigurationError([f"{name}: {fault}"])
    return secret
