"""The log of the ledger's heads: once a day and at the end, of chains that have grown."""

import asyncio
import json
import logging
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from ledgers import ENTRY, chain_faults, present_heads
from serving import make_bundle, make_settings, running, served
from stingy_server import Database
from stingy_server.maintenance.heads import read_kept_heads
from stingy_server.observability import head_log
from stingy_server.store.ledger import Ledger

LINE = "head of the ledger: "


@pytest.mark.anyio
async def test_heads_that_have_grown_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_log, "EVERY_S", 0.05)
    caplog.set_level(logging.INFO, "stingy.ledger")
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))

    def logged() -> list[int]:
        lines = [text for text in caplog.messages if text.startswith(LINE)]
        return [json.loads(text.removeprefix(LINE))["number"] for text in lines]

    async with running(settings) as (_, app):
        await asyncio.sleep(0.2)
        assert logged() == []  # nothing has grown since the start
        app.state.service.ledger.append(ENTRY)
        async with asyncio.timeout(30):
            while not logged():
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        assert len(logged()) == 1
    assert [number - logged()[0] for number in logged()] == [0, 1]  # with the entry of the stop


def test_log_of_a_server_is_a_file_of_heads(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with served(make_bundle(tmp_path / "b"), state=state) as (url, process):
        assert httpx.get(f"{url}/v2/health/ready", timeout=60).status_code == 200
        process.terminate()
        assert process.stderr is not None
        lines = [line for line in process.stderr if LINE in line]
    (tmp_path / "heads").write_text("".join(lines))
    (head,) = read_kept_heads(tmp_path / "heads")
    assert head in present_heads(state, None)
    assert chain_faults(state, None, against=[head]) == []
    with closing(Database(state)) as database:
        assert [entry.event for _, entry in Ledger(database).entries()] == ["start", "stop"]
