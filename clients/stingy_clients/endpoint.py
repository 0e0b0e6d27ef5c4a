"""The address of a server, the key for it, and the certificates that it is trusted by.

Invariant: the key is in the header of requests to this url, and in no repr, str or error.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from stingy_clients.errors import BadInput


@dataclass(frozen=True)
class Endpoint:
    """A server's url and the key for it.

    Raises:
        BadInput: if the url is not http(s) or contains a password, or the key cannot be a header.
    """

    url: str
    key: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL:
            raise BadInput("expected a url, got something else") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise BadInput("expected a url that begins with http:// or https://, got another")
        if url.userinfo:  # httpx would send it instead of the key
            raise BadInput("expected a url without user and password, got one with them")
        if not self.key or not all("!" <= character <= "~" for character in self.key):
            raise BadInput(
                "expected a key of printable ASCII characters, got an empty or another one"
            )

    def headers(self) -> dict[str, str]:
        """Return the header that carries the key."""
        return {"Authorization": f"Bearer {self.key}"}


def trust(ca: str | Path | None) -> ssl.SSLContext | bool:
    """Return the `verify` argument of httpx that trusts the certificates of a file.

    Args:
        ca: a file of certificates in PEM, trusted in place of the well-known ones; None for those.

    Raises:
        BadInput: if it is no such file.
    """
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError):  # SSLError is an OSError
        raise BadInput("expected ca to be a file of certificates in PEM, got another") from None
