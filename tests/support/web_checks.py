"""Checks of promises about browsers, certificates and tokens, and parts that break them."""

import contextlib
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import httpx

from certificates import Authority


async def preflight(
    client: httpx.AsyncClient, path: str, method: str, origin: str
) -> httpx.Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    return await client.options(path, headers=headers)


async def assert_preflights_are_narrow(
    client: httpx.AsyncClient, requests: Iterable[tuple[str, str]], *, origin: str, other: str
) -> None:
    """Check a promise of X: only preflights of one origin for known methods get an answer."""
    answered = set()
    for method, path in requests:
        probe = path == "/ping" or path.startswith("/v2/health/")  # they need no key
        refused = 405 if probe else 401
        response = await preflight(client, path, method, other)
        assert response.status_code == refused, (method, path)
        response = await preflight(client, path, method, origin)
        if response.status_code == 204:
            answered.add((method, path))
        else:
            assert response.status_code == refused, (method, path)
    assert {path for method, path in answered} >= {"/v1/usage", "/v1/predict/digits"}
    for method, path in answered:
        real = await client.request(method, path)
        assert real.status_code in (200, 401)  # 405 would show that the method is unknown
        assert method in ("GET", "HEAD", "POST", "PUT")
        assert path not in ("/", "/docs", "/openapi.json")


class Renewable(Protocol):
    """A certificate as the server has it."""

    context: ssl.SSLContext

    def renew(self) -> None: ...


def serial_of(context: ssl.SSLContext, authority: Authority, *, name: str | None) -> int:
    """Return the serial number of the certificate that a handshake in memory gives."""
    trusting = ssl.create_default_context(cadata=authority.pem.decode())
    trusting.check_hostname = name is not None
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = trusting.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(10):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    found = client.getpeercert()
    assert found is not None
    return int(str(found["serialNumber"]), 16)


def assert_renewed_as_a_pair(make: Callable[[Path, Path], Renewable], folder: Path) -> None:
    """Check a promise of T: a new certificate without its key leaves the old pair in use."""
    authority = Authority()
    old, new = authority.issue(), authority.issue()
    files = old.write(folder)
    certificate = make(*files)
    files[0].write_bytes(new.chain)
    certificate.renew()
    assert serial_of(certificate.context, authority, name="localhost") == old.serial
    files[1].write_bytes(new.key)
    certificate.renew()
    assert serial_of(certificate.context, authority, name="localhost") == new.serial


def assert_forgeries_are_refused(
    check: Callable[[str], Any], forgeries: Iterable[str], *, good: str
) -> None:
    """Check a promise of J: a good token is accepted, and no forged one.

    Args:
        check: raises, or returns None, if a token is not valid.
    """
    assert check(good) is not None
    for forged in forgeries:
        try:
            found = check(forged)
        except Exception:  # noqa: BLE001  any refusal will do
            found = None
        assert found is None, forged.partition(".")[0]
