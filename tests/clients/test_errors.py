"""The tree of errors, and the error for each status and body."""

import copy
import pickle

import httpx
import pytest

from stingy_clients import (
    ApiError,
    AuthError,
    BadImage,
    BudgetExhausted,
    ClientError,
    NotFound,
    ServerError,
    Unavailable,
    UnexpectedAnswer,
)
from stingy_clients.replies import error_from_response


def error_response(status: int, code: str, **headers: str) -> httpx.Response:
    body = {"code": code, "message": "A fixed sentence.", "request_id": "r-1"}
    return httpx.Response(status, json={"error": body}, headers=headers)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "bad_request", ApiError),
        (401, "unauthenticated", AuthError),
        (404, "not_found", NotFound),
        (405, "method_not_allowed", ApiError),
        (413, "too_large", BadImage),
        (415, "unsupported_image", BadImage),
        (415, "unsupported_encoding", BadImage),
        (422, "bad_image", BadImage),
        (422, "bad_tensor", BadImage),
        (429, "budget_exhausted", BudgetExhausted),
        (429, "rate_limited", Unavailable),
        (500, "refused", ServerError),
        (500, "internal", ServerError),
        (503, "overloaded", Unavailable),
        (503, "draining", Unavailable),
        (503, "store_unavailable", Unavailable),
        (504, "deadline", ServerError),
    ],
)
def test_every_wire_error_has_its_class(status: int, code: str, kind: type[ApiError]) -> None:
    error = error_from_response(error_response(status, code))
    assert type(error) is kind
    assert isinstance(error, ClientError)
    assert str(error) == f"{status} {code}: A fixed sentence. (request r-1)"


def test_sentence_alone_has_its_code_and_id_in_headers() -> None:
    headers = {"X-Error-Code": "budget_exhausted", "X-Request-Id": "r-1", "Retry-After": "5"}
    sent = httpx.Response(429, json={"error": "A fixed sentence."}, headers=headers)
    error = error_from_response(sent)
    assert isinstance(error, BudgetExhausted)
    assert str(error) == "429 budget_exhausted: A fixed sentence. (request r-1)"
    assert error.retry_after == 5


@pytest.mark.parametrize(
    "headers", [{}, {"X-Error-Code": "Not a code"}, {"X-Error-Code": "", "X-Request-Id": "r"}]
)
def test_sentence_without_a_code_is_foreign_text(headers: dict[str, str]) -> None:
    sent = httpx.Response(502, json={"error": "A text of a proxy."}, headers=headers)
    error = error_from_response(sent)
    assert str(error) == "502 http_502: the response gives no reason"


@pytest.mark.parametrize("status", [204, 301, 302, 307, 304])
def test_a_status_other_than_200_is_unexpected(status: int) -> None:
    headers = {"Location": "http://other.test/"} if status in (301, 302, 307) else {}
    error = error_from_response(httpx.Response(status, headers=headers))
    assert type(error) is UnexpectedAnswer
    assert ("redirects are not followed" in str(error)) == bool(headers)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>proxy sk-secret</html>",
        b"",
        b"{}",
        b'{"error": "sk-secret"}',
        b'{"error": {"code": "Sk-Secret!", "message": "x"}}',
        b'{"error": {"code": "x", "message": "' + b"y" * 501 + b'"}}',
    ],
)
def test_a_proxys_text_is_not_in_the_error(body: bytes) -> None:
    error = error_from_response(httpx.Response(502, content=body))
    assert type(error) is ServerError
    assert str(error) == "502 http_502: the response gives no reason"


def test_an_error_survives_pickling_and_copying() -> None:
    error = error_from_response(error_response(503, "draining", **{"Retry-After": "5"}))
    error.answered = []
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own bytes
        assert type(copied) is Unavailable
        assert str(copied) == str(error)
        assert (copied.retry_after, copied.request_id, copied.answered) == (5.0, "r-1", [])
