"""The address of a server and the key for it.

Invariant: the key is in the header of requests to this url, and in no repr, str or error.
"""

from dataclasses import dataclass, field

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
