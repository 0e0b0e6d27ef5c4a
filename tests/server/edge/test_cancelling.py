"""A request that is cut off at any moment: what was not answered is given back, and booked."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message

from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_server import Keys, Settings
from stingy_server.store.ledger import Entry, Ledger

pytestmark = pytest.mark.anyio
BODY = png(random_images(1)[0])
PATH = "/v1/predict/digits"
WHOLE = ({"type": "http.request", "body": BODY},)
HALF = ({"type": "http.request", "body": BODY[:9], "more_body": True},)
GONE = ({"type": "http.disconnect"},)
ANSWERED, CUT_OFF = (200, 1, "answer", 1), (0, 0, "cancelled", 0)
DRAINED = (503, 0, "draining", 0)


class OpenRequest:
    """A request as a server's protocol hands it over, in a task that can be cancelled."""

    def __init__(self, app: FastAPI, key: str, messages: Sequence[Message] = WHOLE) -> None:
        self._messages = iter(messages)
        self._begun = self._status = 0
        self._before = books(app)
        self._app = app
        headers = {"authorization": f"Bearer {key}"}
        scope = {
            "type": "http",
            "method": "POST",
            "path": PATH,
            "raw_path": PATH.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        for message in self._messages:
            return message
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self._status = self._begun
        else:
            self._begun = message["status"]

    async def outcome(self) -> tuple[int, int, str, int]:
        """The status that was sent, with a body, what was charged, the event and the images of
        the one entry."""
        await asyncio.gather(self.task, return_exceptions=True)
        await self._app.state.service.writes.flush()
        used, entries = books(self._app)
        (entry,) = entries[len(self._before[1]) :]
        return self._status, used - self._before[0], entry.event, entry.answered


def books(app: FastAPI) -> tuple[int, list[Entry]]:
    service = app.state.service
    used = sum(budget.used for _, budget in Keys(service.database).all())
    return used, [entry for _, entry in Ledger(service.database).entries()]


async def at_once() -> None:
    """Nothing is waited for."""


def settings_of(tmp_path: Path, **options: Any) -> Settings:
    return make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), **options)


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize(
    ("write", "begun", "expected"),
    [
        pytest.param(1, False, CUT_OFF, id="about to be charged"),
        pytest.param(1, True, CUT_OFF, id="charged"),
        pytest.param(2, False, CUT_OFF, id="answered, about to be booked"),
        pytest.param(2, True, ANSWERED, id="answered and booked"),
    ],
)
async def test_Q4_O1_request_cut_at_a_write_is_refunded_or_answered(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: str | None,
    write: int,
    begun: bool,
    expected: tuple[int, int, str, int],
    draining: bool,
) -> None:
    settings = settings_of(tmp_path, store=store)
    async with running(settings) as (_, app):
        request = OpenRequest(app, make_key(settings.state, store=store))
        writes, left = app.state.service.writes, write
        submit = writes.submit

        def watched(call: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            app.state.service.draining |= draining and left == 0
            done = submit(call, **options)
            if left == 0 and begun:  # after the loop has begun the write, which was asked first
                asyncio.get_running_loop().call_soon(request.task.cancel)
            elif left == 0:
                request.task.cancel()
            return done

        monkeypatch.setattr(writes, "submit", watched)
        assert await request.outcome() == (
            DRAINED if draining and expected == CUT_OFF else expected
        )
        assert left < 0 or write == 2


async def test_Q4_O1_request_cancelled_in_any_turn_is_accounted_right(
    tmp_path: Path,
) -> None:
    outcomes = []
    settings = settings_of(tmp_path)
    async with running(settings) as (_, app):
        key = make_key(settings.state)
        for turns in range(1, 40):
            request = OpenRequest(app, key)
            for _ in range(turns):
                await asyncio.sleep(0.0005 if turns > 20 else 0)
            request.task.cancel()
            outcomes.append(await request.outcome())
    assert set(outcomes) == {ANSWERED, CUT_OFF}


@pytest.mark.parametrize("sent", [(), HALF])
async def test_Q4_O1_request_cancelled_before_its_body_is_recorded(
    tmp_path: Path, sent: Sequence[Message]
) -> None:
    settings = settings_of(tmp_path)
    async with running(settings) as (_, app):
        request = OpenRequest(app, make_key(settings.state), sent)
        await asyncio.sleep(0.05)
        request.task.cancel()
        assert await request.outcome() == CUT_OFF


async def test_O1_client_that_leaves_before_its_body_logs_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(tmp_path)
    async with running(settings) as (_, app):
        request = OpenRequest(app, make_key(settings.state), HALF + GONE)
        assert await request.outcome() == CUT_OFF
        cancelled = app.state.service.metrics.registry.get_sample_value(
            "stingy_requests_total", {"model": "digits", "event": "cancelled"}
        )
    assert cancelled == 1
    assert caplog.records == []


async def test_Q4_stopping_server_writes_refunds_before_it_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str | None
) -> None:
    settings = settings_of(tmp_path, store=store)
    async with running(settings) as (_, app):
        (endpoint,) = app.state.service.fleet
        end = endpoint.engine.close
        monkeypatch.setattr(endpoint.engine, "close", at_once)  # as that of a model elsewhere
        request = OpenRequest(app, make_key(settings.state, store=store))
        while books(app)[0] == 0:
            await asyncio.sleep(0)
        request.task.cancel()
    await asyncio.wait_for(request.task, 5)  # refused like any other, and so no error
    await end()
    async with running(settings) as (_, app):
        used, entries = books(app)
    assert used == 0
    assert [entry.event for entry in entries] == ["start", "draining", "stop", "start"]
