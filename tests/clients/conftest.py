"""Fixtures: a fake server, and a function that calls it with each client."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from fake_server import KEY, URL, CallClient, FakeServer
from stingy_clients import AsyncClient, Client


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def _call_sync(server: FakeServer, method: Callable[[Any], Any], **options: Any) -> Any:
    with Client(URL, KEY, transport=httpx.MockTransport(server), **options) as client:
        return method(client)


def _call_async(server: FakeServer, method: Callable[[Any], Any], **options: Any) -> Any:
    async def run() -> Any:
        transport = httpx.MockTransport(server)
        async with AsyncClient(URL, KEY, transport=transport, **options) as client:
            return await method(client)

    return asyncio.run(run())


@pytest.fixture(params=[_call_sync, _call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> CallClient:
    """Return `call(server, lambda client: client.predict(...))`, once for each client."""
    chosen: CallClient = request.param
    return chosen
