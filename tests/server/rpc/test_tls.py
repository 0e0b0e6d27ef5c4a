"""gRPC over TLS: a certificate holds for both ports, and its renewal reaches both."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from fastapi import FastAPI

from certificates import Authority, Pair
from rpc_calls import RpcClient, books, infer_message
from serving import make_bundle, make_key, make_settings, random_images, running

pytestmark = pytest.mark.anyio
IMAGES = random_images(2)
MESSAGE = infer_message(IMAGES)


class Secured(NamedTuple):
    """A running application whose gRPC port has a certificate of its own authority."""

    app: FastAPI
    authority: Authority
    pair: Pair
    folder: Path
    key: str

    @property
    def port(self) -> int:
        return int(self.app.state.rpc.port)

    def client(self, authority: bytes | None) -> RpcClient:
        return RpcClient(self.port, self.key, authority=authority)

    def shake_hands(self, version: ssl.TLSVersion) -> int:
        """Return the serial number of the certificate that a handshake gives."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.set_alpn_protocols(["h2"])
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            found = connection.getpeercert()
            assert found is not None
            assert connection.version() == version.name.replace("_", ".")
            return int(str(found["serialNumber"]), 16)

    async def serial(self) -> int:
        return await asyncio.to_thread(self.shake_hands, ssl.TLSVersion.TLSv1_3)


@asynccontextmanager
async def secured(tmp_path: Path, *, header_timeout_s: float = 10.0) -> AsyncIterator[Secured]:
    authority = Authority()
    pair = authority.issue()
    chain, key = pair.write(tmp_path / "tls")
    settings = make_settings(
        tmp_path / "s",
        make_bundle(tmp_path / "b"),
        grpc_port=0,
        tls_cert=chain,
        tls_key=key,
        header_timeout_s=header_timeout_s,
    )
    async with running(settings) as (_, app):
        yield Secured(app, authority, pair, tmp_path / "tls", make_key(settings.state, budget=100))


async def test_T1_grpc_answers_over_tls_and_charges(tmp_path: Path) -> None:
    async with secured(tmp_path) as server:
        rpc = server.client(server.authority.pem)
        assert (await rpc.call("ModelInfer", MESSAGE)).status == "OK"
        assert (await books(server.app))[0] == len(IMAGES)
        await rpc.channel.close()


async def test_T1_grpc_without_tls_gets_no_answer(tmp_path: Path) -> None:
    async with secured(tmp_path) as server:
        for authority in (None, Authority().pem):  # plain, and one that does not trust the server
            rpc = server.client(authority)
            ended = await rpc.call("ServerLive")
            assert (ended.status, ended.code) == ("UNAVAILABLE", None)
            await rpc.channel.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_T1_grpc_refuses_old_versions_of_tls(tmp_path: Path) -> None:
    async with secured(tmp_path) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            found = await asyncio.to_thread(server.shake_hands, version)
            assert found == server.pair.serial
        with pytest.raises((ssl.SSLError, OSError)):
            await asyncio.to_thread(server.shake_hands, ssl.TLSVersion.TLSv1_1)


async def test_T2_silent_handshake_of_grpc_ends_by_the_time_of_a_head(tmp_path: Path) -> None:
    def closed_after_s(sent: bytes) -> float:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(sent)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass  # until the server has closed it
        return time.monotonic() - began

    async with secured(tmp_path, header_timeout_s=0.5) as server:
        for sent in (b"", b"\x16\x03\x01\x02\x00\x01"):
            assert 0.2 < await asyncio.to_thread(closed_after_s, sent) < 10


async def test_T3_renewal_reaches_new_connections_of_grpc(tmp_path: Path) -> None:
    async with secured(tmp_path) as server:
        before = server.client(server.authority.pem)
        assert (await before.call("ModelInfer", MESSAGE)).status == "OK"
        renewed = server.authority.issue()
        (server.folder / "cert.pem").write_bytes(renewed.chain)
        server.app.state.certificate.renew()  # without its key the new certificate is not used
        assert await server.serial() == server.pair.serial
        (server.folder / "key.pem").write_bytes(renewed.key)
        server.app.state.certificate.renew()
        assert [await server.serial() for _ in range(3)] == [renewed.serial] * 3
        after = server.client(server.authority.pem)
        for rpc in (before, after):
            assert (await rpc.call("ModelInfer", MESSAGE)).status == "OK"
            await rpc.channel.close()
