"""Calls that are cancelled, that never end, and that come during a drain."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from rpc_calls import RpcClient, books, end_of, infer_message, rpc_running
from serving import make_bundle, make_key, make_settings, random_images
from stingy_server import Settings
from stingy_server.rpc.arrivals import LEAST, Arrivals

pytestmark = pytest.mark.anyio
IMAGES = random_images(2) | 15  # as bright as `Slow` needs them to be
MESSAGE = infer_message(IMAGES)


def settings_of(tmp_path: Path, *, seconds: float = 0.0, **options: Any) -> Settings:
    bundle = make_bundle(
        tmp_path / "b", factory="sample_networks:Slow", policy="stingy:n=2", seconds=seconds
    )
    return make_settings(tmp_path / "s", bundle, **options)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def in_flight(app: FastAPI) -> float:
    return float(
        app.state.service.metrics.registry.get_sample_value("stingy_requests_in_flight") or 0
    )


async def test_G4_call_cancelled_before_its_message_costs_nothing(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, _, app):
        call = rpc.start_late("ModelInfer")
        await until(lambda: in_flight(app) == 1)
        call.cancel()
        await until(lambda: in_flight(app) == 0)
        used, (entry,) = await books(app)
        assert (used, entry.event, entry.answered) == (0, "cancelled", 0)


async def test_G4_call_cancelled_while_it_is_computed_is_charged(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path, seconds=0.5)) as (rpc, _, app):
        service = app.state.service
        call = rpc.start("ModelInfer", MESSAGE)
        await until(lambda: any(budget.used for _, budget in service.keys.all()))
        call.cancel()
        await until(lambda: in_flight(app) == 0)
        used, (entry,) = await books(app)
        assert (used, entry.event, entry.answered) == (2, "answer", 2)


async def test_G4_deadline_of_the_client_is_a_cancelled_call(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path, seconds=0.5)) as (rpc, _, app):
        method = rpc.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        metadata = [("authorization", f"Bearer {rpc.key}")]
        ended = await end_of(method(MESSAGE, metadata=metadata, timeout=0.2))
        assert ended.status == "DEADLINE_EXCEEDED"
        await until(lambda: in_flight(app) == 0)
        assert (await books(app))[0] in (0, 2)  # a busy machine may not have read the message


async def test_G4_call_without_an_answer_in_time_is_refunded(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path, seconds=0.5, deadline_s=0.1)) as (rpc, _, app):
        ended = await rpc.call("ModelInfer", MESSAGE)
        assert (ended.status, ended.code) == ("DEADLINE_EXCEEDED", "deadline")
        assert (await books(app))[0] == 0


async def test_G4_message_that_never_comes_ends_by_a_deadline(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path, body_timeout_s=0.3)) as (rpc, _, app):
        ended = await end_of(rpc.start_late("ModelInfer"))
        assert (ended.status, ended.code) == ("DEADLINE_EXCEEDED", "timed_out")
        assert in_flight(app) == 0
        assert (await rpc.call("ModelInfer", MESSAGE)).status == "OK"


async def test_call_without_a_message_is_a_bad_request(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, _, _):
        call = rpc.start_late("ModelInfer")
        await call.done_writing()
        ended = await end_of(call)
        assert (ended.status, ended.code) == ("INVALID_ARGUMENT", "bad_request")


async def test_G4_open_calls_of_a_key_leave_room_for_others(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, max_concurrency=8, body_timeout_s=30)
    async with rpc_running(settings) as (rpc, client, app):
        calls = [rpc.start_late("ModelInfer") for _ in range(20)]
        await until(lambda: sum(call.done() for call in calls) == 16)
        refused = [await end_of(call) for call in calls if call.done()]
        assert {ended.code for ended in refused} == {"overloaded"}
        other = RpcClient(app.state.rpc.port, make_key(settings.state))
        assert (await other.call("ModelInfer", MESSAGE)).status == "OK"
        assert (await client.get("/v1/usage")).status_code == 503
        for call in calls:
            call.cancel()
        await other.channel.close()


async def test_G4_arriving_messages_share_one_memory_limit(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, max_body_bytes=10_000, max_held_bytes=40_000)
    async with rpc_running(settings) as (rpc, _, app):
        slow = [rpc.start_late("ModelInfer") for _ in range(LEAST // 2)]
        await until(lambda: in_flight(app) == LEAST // 2)
        waiting = asyncio.ensure_future(rpc.call("ModelInfer", MESSAGE))
        other = RpcClient(app.state.rpc.port, make_key(settings.state))
        assert (await other.call("ModelInfer", MESSAGE)).status == "OK"
        await asyncio.sleep(0.2)
        assert not waiting.done()  # its key has its share of what may arrive
        for call in slow:
            call.cancel()
        assert (await waiting).status == "OK"
        await other.channel.close()


async def test_arrivals_give_room_to_those_that_wait(tmp_path: Path) -> None:
    arrivals = Arrivals(settings_of(tmp_path, max_body_bytes=10, max_held_bytes=20))
    order: list[str] = []

    async def arrive(owner: str, seconds: float = 0.0) -> None:
        async with arrivals.room(owner):
            order.append(owner)
            await asyncio.sleep(seconds)

    first = [asyncio.ensure_future(arrive("a", 0.2)) for _ in range(6)]
    gone = asyncio.ensure_future(arrive("a"))
    second = asyncio.ensure_future(arrive("b"))
    await asyncio.sleep(0.05)
    assert order == ["a"] * (LEAST // 2) + ["b"]
    gone.cancel()
    await asyncio.gather(*first, second)
    assert order == ["a"] * (LEAST // 2) + ["b", "a", "a"]
    await asyncio.wait_for(asyncio.gather(*(arrive("c") for _ in range(LEAST))), 5)


async def test_G4_drain_answers_what_is_in_flight_and_takes_no_more(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path, seconds=0.5)) as (rpc, _, app):
        service = app.state.service
        call = asyncio.ensure_future(rpc.call("ModelInfer", MESSAGE))
        await until(lambda: any(budget.used for _, budget in service.keys.all()))
        service.begin_drain()
        ended = await rpc.call("ModelInfer", MESSAGE)
        assert (ended.status, ended.code) == ("UNAVAILABLE", "draining")
        assert int(ended.metadata["retry-after"]) > 0
        ready = await rpc.call("ServerReady")
        assert (ready.status, ready.body) == ("OK", b"")  # false
        stopping = asyncio.ensure_future(app.state.rpc.stop())
        assert (await call).status == "OK"
        await asyncio.wait_for(stopping, 10)
        assert (await books(app))[0] == 2


async def test_G4_drain_out_of_time_refunds_what_is_in_flight(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path, seconds=2.0, drain_s=0.2)) as (rpc, _, app):
        service = app.state.service
        call = asyncio.ensure_future(rpc.call("ModelInfer", MESSAGE))
        await until(lambda: any(budget.used for _, budget in service.keys.all()))
        service.begin_drain()
        await asyncio.wait_for(app.state.rpc.stop(), 10)
        ended = await call
        assert (ended.status, ended.code) == ("UNAVAILABLE", "draining")
        used, entries = await books(app)
        assert (used, [entry.event for entry in entries]) == (0, ["draining"])
