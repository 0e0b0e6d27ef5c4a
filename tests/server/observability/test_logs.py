"""The log: each record is one line, whatever its text."""

import json
import logging
import logging.config

import pytest

from stingy_server.observability.logs import MOST_TEXTS, OncePerSecond, log_config
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


def test_O5_equal_lines_pass_once_a_second_and_are_counted() -> None:
    once = OncePerSecond()

    def passed(text: str, at: float) -> str | None:
        record = logging.LogRecord("stingy", logging.ERROR, "", 0, "%s", (text,), None)
        record.created = at
        return record.getMessage() if once.filter(record) else None

    assert passed("a", 10.0) == "a"
    assert [passed("a", 10.0 + share / 10) for share in range(1, 10)] == [None] * 9
    assert passed("b", 10.5) == "b"
    assert passed("a", 11.1) == "a (and 9 more times before)"
    assert passed("a", 9.0) == "a"  # the clock was set back
    for number in range(5000):
        assert passed(str(number), 20.0) == str(number)
    assert len(once._latest) <= MOST_TEXTS
