"""The interpretation of responses: the error of a refusal, the wait before a retry, the body.

Invariant: foreign text (a proxy's page, a library's message) is never in an error.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, TypeVar

import httpx
from pydantic import BaseModel, Field, ValidationError

from stingy_clients.answers import ScoredClass
from stingy_clients.errors import (
    ApiError,
    AuthError,
    BadImage,
    BudgetExhausted,
    ClientError,
    NotFound,
    ServerError,
    TransportError,
    Unavailable,
    UnexpectedAnswer,
)

ModelT = TypeVar("ModelT", bound=BaseModel)

LOST_CONNECTION = (httpx.NetworkError, httpx.RemoteProtocolError)
"""The connection was refused or reset before a response. Timeouts are not included."""

_LONGEST_WAIT = 30.0  # seconds, even if the server names a longer time

_KINDS: dict[int, type[ApiError]] = {
    401: AuthError,
    404: NotFound,
    413: BadImage,
    415: BadImage,
    422: BadImage,
    429: Unavailable,
    503: Unavailable,
}


class _Reason(BaseModel):
    code: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
    message: Annotated[str, Field(max_length=500)]
    request_id: Annotated[str, Field(max_length=128)] = ""


class _ErrorBody(BaseModel):
    """The body of a refusal: on /v2 the sentence alone, whose code and id are in headers."""

    error: _Reason | Annotated[str, Field(max_length=500)]


def error_from_response(response: httpx.Response) -> ClientError:
    """Build the error for a status other than 200."""
    status = response.status_code
    if status < 400:
        hint = (
            " (redirects are not followed: check the url)" if response.has_redirect_location else ""
        )
        return UnexpectedAnswer(f"expected the status 200, got {status}{hint}")
    try:
        reason = _read_reason(response)
    except ValidationError:
        reason = _Reason(code=f"http_{status}", message="the response gives no reason")
    kind = _KINDS.get(status, ServerError if status >= 500 else ApiError)
    if status == 429 and reason.code == "budget_exhausted":
        kind = BudgetExhausted
    retry_after = _parse_retry_after(response.headers.get("Retry-After", ""))
    return kind(status, reason.code, reason.message, reason.request_id, retry_after)


def _read_reason(response: httpx.Response) -> _Reason:
    error = _ErrorBody.model_validate_json(response.content).error
    if isinstance(error, _Reason):
        return error
    fields = {
        "code": response.headers.get("X-Error-Code", ""),
        "message": error,
        "request_id": response.headers.get("X-Request-Id", ""),
    }
    return _Reason.model_validate(fields)


def error_from_failure(failure: httpx.RequestError, *, method: str) -> ClientError:
    """Build the error for a request without a readable response."""
    if isinstance(failure, httpx.DecodingError):
        return UnexpectedAnswer("expected a readable response, got one with a broken encoding")
    charged = "" if method == "GET" else "; the images may have been charged"
    if "CERTIFICATE_VERIFY_FAILED" in str(failure):
        return TransportError(
            "expected a certificate of a trusted authority, got another; name yours as ca (--ca)"
        )
    if isinstance(failure, httpx.ConnectError):
        return TransportError("expected a server at the url, got no connection: is it running?")
    if isinstance(failure, httpx.ConnectTimeout | httpx.PoolTimeout):
        return TransportError("expected a connection within the timeout, got none")
    if isinstance(failure, httpx.TimeoutException):
        return TransportError(f"expected a response within the timeout, got none{charged}")
    return TransportError(f"expected a response, got a broken connection{charged}")


def wait_before_retry(error: ClientError, attempt: int) -> float:
    """Compute the seconds to wait before attempt + 1.

    If the server names a time, it is that time, at most 30 s. If not, it is random, 0.1 to 2 s.
    """
    if isinstance(error, ApiError) and error.retry_after is not None:
        return min(error.retry_after, _LONGEST_WAIT)
    return random.uniform(0.1, min(2.0, 0.2 * 2**attempt))  # noqa: S311 - not a secret


def parse_body(model: type[ModelT], response: httpx.Response) -> ModelT:
    """Parse the body strictly as `model`.

    Raises:
        UnexpectedAnswer: if the body is not such a document.
    """
    try:
        return model.model_validate_json(response.content, strict=True)
    except ValidationError:
        raise UnexpectedAnswer(f"expected a body of {model.__name__}, got another body") from None


def check_classes(
    classes: Sequence[ScoredClass], *, num_classes: int, form: str | None = None
) -> None:
    """Check that classes are in range and unique, and that all or none of them have scores.

    Args:
        classes: the classes of one answer.
        num_classes: K.
        form: the form of the scores, if the server names it. Only `none` has no scores.

    Raises:
        UnexpectedAnswer: if they do not.
    """
    indices = {entry.index for entry in classes}
    if len(indices) != len(classes) or max(indices) >= num_classes:
        raise UnexpectedAnswer(f"expected {num_classes} classes at most once each, got others")
    if len({entry.score is None for entry in classes}) != 1:
        raise UnexpectedAnswer("expected a score for every class or for none, got some")
    if form is not None and (form == "none") != (classes[0].score is None):
        raise UnexpectedAnswer("expected scores unless their form is none, got another answer")


def _parse_retry_after(header: str) -> float | None:
    """Parse the seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3)."""
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):  # OverflowError: an offset such as +999999999999
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
