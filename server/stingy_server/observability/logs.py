"""The server's log on stderr, as text or as one JSON object a line.

A message contains nothing of a request, because the ledger records requests.
"""

import logging
from typing import Any

import orjson
import structlog

from stingy_server.settings import LogFormat

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_config(form: LogFormat) -> dict[str, Any]:
    """Return the argument of `logging.config.dictConfig` for this process and every worker."""
    formatter = {"format": TEXT} if form == "text" else {"()": json_formatter}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
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
