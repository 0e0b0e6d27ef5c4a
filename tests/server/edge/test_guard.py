"""The guard: compressed bodies are refused, body memory is bounded, and no request leaks."""

import asyncio
import gc
import gzip
import os
import sys
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Message

from serving import make_bundle, make_key, make_settings, png, random_images, running

pytestmark = pytest.mark.anyio
IMAGES = random_images(16)
PREDICT, INFER = "/v1/predict/digits", "/v2/models/digits/infer"
MEGABYTES = 64

BOMBS = {
    "gzip": gzip.compress(bytes(MEGABYTES * 2**20), 9),
    "deflate": zlib.compress(bytes(MEGABYTES * 2**20), 9),
    "br": bytes(1000),  # refused by its name; the content is never read
    "zstd": bytes(1000),
}


@pytest.mark.parametrize("path", [PREDICT, INFER])
@pytest.mark.parametrize("encoding", BOMBS)
async def test_H2_compressed_body_is_refused_and_never_inflated(
    tmp_path: Path, encoding: str, path: str
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        tracemalloc.start()
        try:
            for spelling in (encoding, encoding.upper(), f"identity, {encoding}"):
                response = await client.post(
                    path, content=BOMBS[encoding], headers={"Content-Encoding": spelling}
                )
                assert response.status_code == 415
                assert response.headers["X-Error-Code"] == "unsupported_encoding"
            twice = [("Content-Encoding", "identity"), ("Content-Encoding", encoding)]
            response = await client.post(path, content=BOMBS[encoding], headers=twice)
            assert 400 <= response.status_code < 500
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 2**20
        assert (await client.get("/v1/usage")).json()["used"] == 0


async def test_H5_bodies_of_all_requests_share_one_memory_limit(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path / "s", make_bundle(tmp_path / "b"), max_body_bytes=60_000, max_held_bytes=100_000
    )
    other = {"Authorization": f"Bearer {make_key(settings.state)}"}
    async with running(settings) as (client, _):
        for _ in range(3):  # body memory is released after every outcome
            arrived, end = asyncio.Event(), asyncio.Event()

            async def parked_body(
                arrived: asyncio.Event, end: asyncio.Event
            ) -> AsyncIterator[bytes]:
                yield bytes(60_000)
                arrived.set()
                await end.wait()

            waiting = asyncio.create_task(client.post(PREDICT, content=parked_body(arrived, end)))
            await arrived.wait()
            fits = await client.post(PREDICT, content=bytes(40_000), headers=other)
            assert fits.status_code == 415
            refused = await client.post(PREDICT, content=bytes(40_001), headers=other)
            assert (refused.status_code, refused.headers["X-Error-Code"]) == (503, "overloaded")
            assert "retry-after" in refused.headers
            end.set()
            assert (await waiting).status_code == 415


async def test_H5_client_that_never_reads_takes_no_place_without_a_key(tmp_path: Path) -> None:
    configured = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), max_concurrency=1)
    blocked = asyncio.Event()

    async def silence() -> Message:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def full_connection(message: Message) -> None:
        blocked.set()
        await asyncio.Event().wait()

    async with running(configured) as (client, app):
        scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": []}
        refused = asyncio.create_task(app(scope, silence, full_connection))
        await blocked.wait()
        assert (await client.post(PREDICT, content=png(IMAGES[0]))).status_code == 200
        refused.cancel()
        with pytest.raises(asyncio.CancelledError):
            await refused


async def send_mixed_requests(client: httpx.AsyncClient, *, rounds: int) -> int:
    """Send rounds of good requests and of each kind of refusal. Return the number of requests."""
    document = {"name": "image", "datatype": "UINT8", "shape": IMAGES.shape}
    tensor = {"inputs": [{**document, "data": IMAGES.ravel().tolist()}]}
    wrong = {"Authorization": "Bearer stingy_wrong"}
    answered = 0
    for _ in range(rounds):
        responses = [await client.post(PREDICT, content=png(image)) for image in IMAGES[:4]]
        responses += [
            await client.post(INFER, json=tensor),
            await client.post(INFER, json={"inputs": []}),
            await client.post(PREDICT, content=b"\x89PNG\r\n\x1a\n broken"),
            await client.post(PREDICT, content=b"x", headers=wrong),
            await client.post(PREDICT, content=b"x", headers={"Content-Encoding": "gzip"}),
            await client.post("/v1/predict/unknown", content=b"x"),
            await client.get("/nowhere"),
            await client.delete(PREDICT),
        ]
        assert {r.status_code for r in responses} == {200, 400, 401, 404, 405, 415, 422}
        answered += len(responses)
    return answered


async def count_memory_blocks(client: httpx.AsyncClient) -> int:
    """Count the memory blocks in use, and return the least of a few counts."""
    found = []
    for _ in range(4):
        await send_mixed_requests(client, rounds=5)
        gc.collect()
        found.append(sys.getallocatedblocks())
    return min(found)


async def test_H11_hundreds_of_requests_leak_no_memory_or_threads(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))

    def files_and_threads() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    async with running(settings) as (client, _):
        await send_mixed_requests(client, rounds=20)  # fills everything of a fixed size
        before_all = files_and_threads()
        for _ in range(4):  # measured again if it grew: something of a fixed size may fill
            before = await count_memory_blocks(client)
            answered = await send_mixed_requests(client, rounds=80)
            grown = await count_memory_blocks(client) - before
            if grown < answered / 2:
                break
        files, threads = files_and_threads()
    # Each of the three threads that wait for a locked file opens it at its first wait.
    assert files <= before_all[0] + 3 * 4
    # A pool starts another of its few threads if none is idle yet.
    assert threads <= before_all[1] + 3
    assert grown < answered / 2
