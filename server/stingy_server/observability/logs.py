"""What the server says of itself on stderr, as text or as one JSON object a line.

Nothing of a request is in a message: who asked what is the ledger's to tell.
"""

import logging
from typing import Any

import orjson
import structlog

from stingy_server.settings import LogFormat

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_config(form: LogFormat) -> dict[str, Any]:
    """For `logging.config.dictConfig`, in this process and in every worker."""
    formatter = {"format": TEXT} if form == "text" else {"()": json_formatter}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }


def json_formatter() -> logging.Formatter:
    """One line a record: time, level, logger, event; a traceback, if any, as a field."""
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
