"""The waits before retries, and the failures that warn of a possible charge."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from stingy_clients import ApiError, ClientError, TransportError, UnexpectedAnswer
from stingy_clients.replies import error_from_failure, error_from_response, wait_before_retry

OVERFLOW = "Wed, 21 Oct 2015 07:28:00 +" + "9" * 30


def retry_after(header: str) -> float | None:
    error = error_from_response(
        httpx.Response(503, headers=[(b"Retry-After", header.encode("latin-1"))])
    )
    assert isinstance(error, ApiError)
    return error.retry_after


def test_retry_after_is_a_number_of_seconds() -> None:
    assert retry_after("7") == 7.0
    assert retry_after("0") == 0.0
    assert retry_after("9" * 400) == float("inf")


def test_retry_after_may_be_a_date() -> None:
    soon = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True))
    assert soon is not None
    assert 15 < soon <= 20
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 -0000") == 0.0


@pytest.mark.parametrize("header", ["", "-1", "soon", "1.5", "1e400", "²", OVERFLOW])
def test_an_invalid_retry_after_counts_as_none(header: str) -> None:
    assert retry_after(header) is None


def test_the_wait_is_the_servers_but_at_most_30_seconds() -> None:
    def wait(seconds: float) -> float:
        return wait_before_retry(ApiError(503, "draining", "x", "", seconds), 0)

    assert wait(0) == 0
    assert wait(12.5) == 12.5
    assert wait(31) == 30
    assert wait(float("inf")) == 30


@pytest.mark.parametrize("attempt", range(12))
def test_the_wait_grows_from_a_tenth_to_two_seconds(attempt: int) -> None:
    waits = [wait_before_retry(ApiError(503, "x", "x"), attempt) for _ in range(200)]
    assert min(waits) >= 0.1
    assert max(waits) <= min(2.0, 0.2 * 2**attempt)
    assert len(set(waits)) > 100


@pytest.mark.parametrize(
    ("failure", "charged"),
    [
        (httpx.ConnectError("x"), False),
        (httpx.ConnectTimeout("x"), False),
        (httpx.PoolTimeout("x"), False),
        (httpx.ReadTimeout("x"), True),
        (httpx.WriteTimeout("x"), True),
        (httpx.ReadError("x"), True),
        (httpx.RemoteProtocolError("x"), True),
    ],
)
def test_the_error_of_a_lost_post_warns_of_a_charge(
    failure: httpx.RequestError, charged: bool
) -> None:
    post, get = (
        error_from_failure(failure, method="POST"),
        error_from_failure(failure, method="GET"),
    )
    assert type(post) is type(get) is TransportError
    assert ("may have been charged" in str(post)) is charged
    assert "charged" not in str(get)


def test_a_broken_encoding_is_an_unexpected_answer() -> None:
    error: ClientError = error_from_failure(httpx.DecodingError("x"), method="GET")
    assert type(error) is UnexpectedAnswer


def test_an_untrusted_certificate_is_named_in_the_error() -> None:
    failure = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error = error_from_failure(failure, method="POST")
    assert type(error) is TransportError
    assert "trusted authority" in str(error)
