"""The server's log on stderr, as text or as one JSON object a line.

A message contains nothing of a request, because the ledger records requests. Requests may cause a
message each, such as while the store is locked, so equal messages of a second share a line.
"""

import logging
import time
from typing import Any

import orjson
import structlog

from stingy_server.settings import LogFormat

WINDOW_S = 1.0
KEPT_MESSAGES = 256
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_config(form: LogFormat) -> dict[str, Any]:
    """Return the argument of `logging.config.dictConfig` for this process and every worker."""
    formatter = {"format": TEXT} if form == "text" else {"()": json_formatter}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "filters": {"repeats": {"()": RepeatFilter}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "filters": ["repeats"],
            }
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }


class RepeatFilter(logging.Filter):
    """A filter that passes the first of equal messages within a second. The next has their number.

    So no flood of requests fills a disk with log lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, tuple[float, int]] = {}  # the time of a line, and those left out

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        now = time.monotonic()
        latest, left_out = self._passed.get(message, (-WINDOW_S, 0))
        if now - latest < WINDOW_S:
            self._passed[message] = latest, left_out + 1
            return False
        if len(self._passed) >= KEPT_MESSAGES:
            self._passed.clear()
        self._passed[message] = now, 0
        if left_out:
            record.msg, record.args = f"{message} ({left_out} more before)", None
        return True


def json_formatter() -> logging.Formatter:
    """Return a formatter of one line a record: time, level, logger, event.

    A traceback is a field of the same line.
    """
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.format_exc_info,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
    )


def _dumps(record: dict[str, Any], **_: object) -> str:
    return orjson.dumps(record, default=str).decode()
