"""Requests cancelled at any moment: an unanswered one is refunded, and each has a ledger entry."""

import asyncio
import itertools
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
ANSWERED, CANCELLED = (200, 1, "answer", 1), (0, 0, "cancelled", 0)
DRAINED = (503, 0, "draining", 0)


class OpenRequest:
    """A request as the HTTP server passes it on, in a task that can be cancelled."""

    def __init__(self, app: FastAPI, key: str, messages: Sequence[Message] = WHOLE) -> None:
        self._messages = iter(messages)
        self.messages_read = asyncio.Event()  # the application waits for another message
        self._started_status = self._status = 0
        self._before = charges_and_entries(app)
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
        self.messages_read.set()
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self._status = self._started_status
        else:
            self._started_status = message["status"]

    async def outcome(self) -> tuple[int, int, str, int]:
        """Return the status sent with a body, the images charged, and event and images answered.

        The last two are from the one ledger entry of the request.
        """
        await asyncio.gather(self.task, return_exceptions=True)
        service = self._app.state.service
        await service.writes.flush()
        service.refusals.write()  # the next refusal has an entry of its own, whatever its second
        used, entries = charges_and_entries(self._app)
        (entry,) = entries[len(self._before[1]) :]
        return self._status, used - self._before[0], entry.event, entry.answered


def charges_and_entries(app: FastAPI) -> tuple[int, list[Entry]]:
    service = app.state.service
    used = sum(budget.used for _, budget in Keys(service.database).all())
    return used, [entry for _, entry in Ledger(service.database).entries()]


async def return_at_once() -> None:
    """Return without waiting."""


def settings_of(tmp_path: Path, **options: Any) -> Settings:
    return make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), **options)


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize(
    ("write", "begun", "expected"),
    [
        pytest.param(1, False, CANCELLED, id="about to be charged"),
        pytest.param(1, True, CANCELLED, id="charged"),
        pytest.param(2, False, CANCELLED, id="answered, about to be recorded"),
        pytest.param(2, True, ANSWERED, id="answered and recorded"),
    ],
)
async def test_Q4_O1_request_cancelled_at_a_write_is_refunded_or_sent(
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
        queue, left = app.state.service.writes._queue, write
        put = queue.put

        def cancelling_put(item: Any) -> Any:
            nonlocal left
            left -= 1
            app.state.service.draining |= draining and left == 0
            done = put(item)
            if left == 0 and begun:  # runs after the write, which was scheduled first
                asyncio.get_running_loop().call_soon(request.task.cancel)
            elif left == 0:
                request.task.cancel()
            return done

        monkeypatch.setattr(queue, "put", cancelling_put)
        assert await request.outcome() == (
            DRAINED if draining and expected == CANCELLED else expected
        )
        assert left < 0 or write == 2


async def test_Q4_O1_request_cancelled_in_any_turn_is_charged_right(
    tmp_path: Path,
) -> None:
    outcomes: list[tuple[int, int, str, int]] = []
    settings = settings_of(tmp_path)
    async with running(settings) as (_, app):
        key = make_key(settings.state)
        for turns in itertools.count(1):
            if turns >= 40 and ANSWERED in outcomes:  # a busy machine needs more turns
                break
            request = OpenRequest(app, key)
            for _ in range(turns):
                await asyncio.sleep(0.0005 if turns > 20 else 0)
            request.task.cancel()
            outcomes.append(await request.outcome())
    assert set(outcomes) == {ANSWERED, CANCELLED}


@pytest.mark.parametrize("sent", [(), HALF])
async def test_Q4_O1_request_cancelled_before_its_body_is_recorded(
    tmp_path: Path, sent: Sequence[Message]
) -> None:
    settings = settings_of(tmp_path)
    async with running(settings) as (_, app):
        request = OpenRequest(app, make_key(settings.state), sent)
        await request.messages_read.wait()
        request.task.cancel()
        assert await request.outcome() == CANCELLED


async def test_O1_client_leaving_before_its_body_logs_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(tmp_path)
    async with running(settings) as (_, app):
        request = OpenRequest(app, make_key(settings.state), HALF + GONE)
        assert await request.outcome() == CANCELLED
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
        close_engine = endpoint.engine.close
        # The engine of a model in another process closes like this.
        monkeypatch.setattr(endpoint.engine, "close", return_at_once)
        request = OpenRequest(app, make_key(settings.state, store=store))
        while charges_and_entries(app)[0] == 0:
            await asyncio.sleep(0)
        request.task.cancel()
    await asyncio.wait_for(request.task, 60)  # the guard refuses it, so it raises nothing
    await close_engine()
    async with running(settings) as (_, app):
        used, entries = charges_and_entries(app)
    assert used == 0
    assert [entry.event for entry in entries] == ["start", "draining", "stop", "start"]
