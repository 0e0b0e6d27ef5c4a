"""The log: each record is one line, whatever its text."""

import json
import logging
import logging.config
import time

import pytest

from stingy_server.observability.logs import KEPT_MESSAGES, log_config
from stingy_server.settings import LogFormat

HOSTILE = 'a\nb\r\x1b[31m"}'


def log_output(form: LogFormat, capsys: pytest.CaptureFixture[str]) -> str:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logging.config.dictConfig(log_config(form))
        logging.getLogger("stingy").error("the store: %s", HOSTILE)
        logging.getLogger("stingy").info("not worth a line")
    finally:
        root.handlers, root.level = before, level
    return capsys.readouterr().err


def test_O2_json_record_is_one_object_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = log_output("json", capsys).splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("Z")
    assert record == {"level": "error", "logger": "stingy", "event": f"the store: {HOSTILE}"}


def test_text_record_has_level_logger_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert "ERROR stingy: the store:" in log_output("text", capsys)


@pytest.mark.parametrize("form", ["text", "json"])
def test_C5_equal_log_messages_of_a_second_share_a_line(
    form: LogFormat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    now = time.monotonic()
    try:
        logging.config.dictConfig(log_config(form))
        log = logging.getLogger("stingy")
        for second in range(3):
            monkeypatch.setattr(time, "monotonic", lambda second=second: now + second)
            for _ in range(100):
                log.error("%s", "the store does not answer")
            log.error("another line")
        for number in range(2 * KEPT_MESSAGES):
            log.error("different %s", number)
    finally:
        root.handlers, root.level = before, level
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 + 2 * KEPT_MESSAGES
    assert ["(99 more before)" in line for line in lines[:6:2]] == [False, True, True]
