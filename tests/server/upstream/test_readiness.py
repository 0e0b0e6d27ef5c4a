"""Readiness of model servers: one probe for many clients, and the address of each engine."""

import asyncio
from pathlib import Path

import pytest

from hostile import hangs, hangs_up, says, upstream
from infer_requests import code
from serving import running
from stingy_server.upstream import readiness
from stingy_server.upstream.readiness import Readiness
from upstream_edge import GOOD, Switched, edge, marked, torchserve

pytestmark = pytest.mark.anyio
READY = "/v2/models/digits/ready"


async def test_U6_many_clients_share_one_probe_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = 0
    release = asyncio.Event()

    async def probe() -> bool:
        nonlocal probes
        probes += 1
        await release.wait()
        return probes < 2

    shared = Readiness(probe)
    clients = [asyncio.create_task(shared.check()) for _ in range(20)]
    await asyncio.sleep(0)
    clients.pop().cancel()
    release.set()
    assert set(await asyncio.gather(*clients)) == {True}
    assert await shared.check()
    assert probes == 1
    monkeypatch.setattr(readiness, "KEPT_S", 0.0)
    shared = Readiness(probe)
    assert [await shared.check(), await shared.check()] == [False, False]
    assert probes == 3


async def test_U6_upstream_that_hangs_or_hangs_up_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "KEPT_S", 0.0)
    monkeypatch.setattr(readiness, "TIMEOUT_S", 0.2)
    switched = Switched(says(GOOD))
    with upstream(switched) as url:
        async with running(edge(tmp_path, f"{url}/infer", timeout_s=5.0)) as (client, _):
            for behaviour in (hangs, hangs_up, says(b"a" * 100_000)):
                switched.behaviour = behaviour
                assert code(await client.get(READY)) == (502, "upstream_failed")
            switched.behaviour = says(b"[]")
            assert (await client.get(READY)).status_code == 200


async def test_U6_torchserve_is_probed_by_its_ping_with_its_key(tmp_path: Path) -> None:
    switched = Switched(marked(tmp_path))
    with upstream(switched) as url:
        base = url.removesuffix("/v2/models/digits")
        async with running(torchserve(tmp_path, f"{base}/predictions/digits")) as (client, _):
            assert (await client.get(READY)).status_code == 200
    probe = switched.requests[-1]
    assert probe.startswith(b"GET /ping ")
    assert b"Authorization: Bearer first\r\n" in probe


async def test_probe_does_not_wait_for_queries(tmp_path: Path) -> None:
    switched = Switched(says(GOOD))
    with upstream(switched) as url:
        async with running(edge(tmp_path, f"{url}/infer", timeout_s=1.0, passes=1)) as (
            client,
            app,
        ):
            (endpoint,) = app.state.service.fleet
            switched.behaviour = hangs
            images = endpoint.manifest.preprocessing.size
            query = asyncio.create_task(client.post("/v2/models/digits/infer", json=_black(images)))
            await asyncio.sleep(0.1)
            switched.behaviour = says(b"{}")
            assert (await client.get(READY)).status_code == 200
            assert not query.done()
            assert code(await query) == (504, "upstream_timeout")


def _black(size: tuple[int, int]) -> dict[str, object]:
    shape = [1, *size, 3]
    data = [0] * (size[0] * size[1] * 3)
    return {"inputs": [{"name": "image", "datatype": "UINT8", "shape": shape, "data": data}]}
