"""The client of a Stingy endpoint: a sync and an async client, their answers and their errors.

Invariant: importing this package needs only the base install (no torch, no server).
"""

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
