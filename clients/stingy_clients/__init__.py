"""The client of a Stingy endpoint: a sync and an async client, their answers and their errors.

Invariant: importing this package needs only the base install (no torch, no server).
Names load on first use, because the server and most commands need no HTTP client.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stingy_clients.aio import AsyncClient
    from stingy_clients.answers import (
        Answer,
        BudgetUsage,
        ModelInfo,
        ModelList,
        PeriodUsage,
        PredictResponse,
        ScoredClass,
        ServedModel,
        Usage,
        WireAnswer,
    )
    from stingy_clients.client import Client
    from stingy_clients.errors import (
        ApiError,
        AuthError,
        BadImage,
        BadInput,
        BudgetExhausted,
        ClientError,
        NotFound,
        ServerError,
        TransportError,
        Unavailable,
        UnexpectedAnswer,
    )

__all__ = [
    "Answer",
    "ApiError",
    "AsyncClient",
    "AuthError",
    "BadImage",
    "BadInput",
    "BudgetExhausted",
    "BudgetUsage",
    "Client",
    "ClientError",
    "ModelInfo",
    "ModelList",
    "NotFound",
    "PeriodUsage",
    "PredictResponse",
    "ScoredClass",
    "ServedModel",
    "ServerError",
    "TransportError",
    "Unavailable",
    "UnexpectedAnswer",
    "Usage",
    "WireAnswer",
]

_MODULES = {
    "Answer": "answers",
    "ApiError": "errors",
    "AsyncClient": "aio",
    "AuthError": "errors",
    "BadImage": "errors",
    "BadInput": "errors",
    "BudgetExhausted": "errors",
    "BudgetUsage": "answers",
    "Client": "client",
    "ClientError": "errors",
    "ModelInfo": "answers",
    "ModelList": "answers",
    "NotFound": "errors",
    "PeriodUsage": "answers",
    "PredictResponse": "answers",
    "ScoredClass": "answers",
    "ServedModel": "answers",
    "ServerError": "errors",
    "TransportError": "errors",
    "Unavailable": "errors",
    "UnexpectedAnswer": "errors",
    "Usage": "answers",
    "WireAnswer": "answers",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
