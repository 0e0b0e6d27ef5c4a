"""The server's log on stderr, as text or as one JSON object a line.

A message contains nothing of a request, because the ledger records requests.
"""

import logging
from typing import Any

import orjson
import structlog

from stingy_server.settings import LogFormat

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
PAUSE_S = 1.0  # between two lines of the same text
MOST_TEXTS = 1000


class OncePerSecond(logging.Filter):
    """A filter that passes equal lines once a second, and counts the others in the next one.

    A fault that every request meets would otherwise fill the disk at the rate of requests.
    """

    def __init__(self) -> None:
        super().__init__()
        # For each text, the time of its latest line, and the lines dropped since.
        self._latest: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        latest, dropped = self._latest.get(text, (float("-inf"), 0))
        if 0 <= record.created - latest < PAUSE_S:
            self._latest[text] = latest, dropped + 1
            return False
        if len(self._latest) >= MOST_TEXTS:
            self._latest.clear()
        self._latest[text] = record.created, 0
        if dropped:
            record.msg, record.args = f"{text} (and {dropped} more times before)", ()
        return True


def log_config(form: LogFormat) -> dict[str, Any]:
    """Return the argument of `logging.config.dictConfig` for this process and every worker."""
    formatter = {"format": TEXT} if form == "text" else {"()": json_formatter}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "filters": {"once": {"()": OncePerSecond}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "filters": ["once"],
            }
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {"stingy.ledger": {"level": "INFO"}},  # the heads of the ledger
    }


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
