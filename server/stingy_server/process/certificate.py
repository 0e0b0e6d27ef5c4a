"""The server's certificate and key: read at the start, and anew when their files change.

OpenSSL takes names of files alone, and reads them one after the other. So the content of both is
read here, tried in a context of its own, and used from then on as a whole or not at all.
"""

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stingy_protection.files import read_regular_file
from stingy_server.errors import ConfigurationError
from stingy_server.settings import Settings

log = logging.getLogger("stingy")

MAX_PEM_BYTES = 2**20
POLL_S = 5.0  # between two looks at the files


class Pair(NamedTuple):
    """The content of both files, in PEM."""

    chain: bytes
    key: bytes


class Certificate:
    """A certificate chain with its key, whose files may be replaced while the server runs.

    Args:
        chain: the file with the certificate and those of its issuers, in PEM.
        key: the file with its key, in PEM, without a passphrase.

    Attributes:
        context: the context of all connections of HTTP. A handshake gets the latest valid pair.
        pair: the latest valid pair, for connections that do without the context.

    Raises:
        ConfigurationError: the files cannot be read, or are no such pair.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._files = (chain, key)
        self.pair = self._read()
        self._latest = self.context = make_context(*self.pair)
        self.context.sni_callback = self._use_latest
        self._faults: tuple[str, ...] = ()  # of the files, as they were logged last

    async def watch(self) -> None:
        """Look at the files from time to time, until the task is cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            await asyncio.to_thread(self.renew)

    def renew(self) -> None:
        """Use the present content of the files, if it is another valid pair.

        Otherwise the old pair stays in use. The log has each fault once.
        """
        try:
            pair = self._read()
            if pair == self.pair:
                self._faults = ()
                return
            context = make_context(*pair)
        except ConfigurationError as error:
            if error.faults != self._faults:
                self._faults = error.faults
                log.error("the old certificate stays in use: %s", "; ".join(error.faults))
            return
        self.pair, self._latest, self._faults = pair, context, ()
        log.info("the certificate was renewed")

    def _use_latest(
        self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext
    ) -> None:
        # OpenSSL calls this in each handshake, whether the client names a host or not.
        connection.context = self._latest

    def _read(self) -> Pair:
        contents = []
        faults = []
        for setting, path in zip(("tls_cert", "tls_key"), self._files, strict=True):
            try:
                contents.append(read_regular_file(path, max_bytes=MAX_PEM_BYTES))
            except OSError as error:
                reason = error.strerror or error
                faults.append(f"{setting}: expected a readable file at {path}, got: {reason}")
        if faults:
            raise ConfigurationError(faults)
        return Pair(*contents)


def load_certificate(settings: Settings) -> tuple[Certificate | None, list[str]]:
    """Load the certificate that the settings name, if they name one. Return it and its faults."""
    chain, key = settings.tls_cert, settings.tls_key
    if chain is None and key is None:
        return None, []
    if chain is None or key is None:
        given, missing = ("tls_key", "tls_cert") if chain is None else ("tls_cert", "tls_key")
        return None, [f"{missing}: expected a file beside {given}, got none"]
    try:
        return Certificate(chain, key), []
    except ConfigurationError as error:
        return None, [*error.faults]


def make_context(chain: bytes, key: bytes) -> ssl.SSLContext:
    """Make a server's context of TLS 1.2 and 1.3 with a certificate chain and its key, in PEM.

    Raises:
        ConfigurationError: they are no such pair, or the key has a passphrase.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        with _named(chain) as chain_name, _named(key) as key_name:
            # Without a password OpenSSL would wait for one on the terminal.
            context.load_cert_chain(chain_name, key_name, password="")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise ConfigurationError(
            [
                "tls_cert, tls_key: expected a certificate chain and its key without a passphrase, "
                f"both in PEM, got other content ({reason})"
            ]
        ) from None
    return context


@contextlib.contextmanager
def _named(content: bytes) -> Iterator[str]:
    """Give bytes in memory the name of a file. A key is never written to a disk."""
    descriptor = os.memfd_create("stingy")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{descriptor}"
