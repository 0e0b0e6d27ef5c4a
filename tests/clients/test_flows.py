"""The flows without I/O: the requests that are retried, and the waits."""

import httpx
import pytest

from stingy_clients import (
    BudgetExhausted,
    ClientError,
    ServerError,
    TransportError,
    Unavailable,
    UnexpectedAnswer,
)
from stingy_clients.flows import Call, Flow, Flows, T

Reply = httpx.Response | httpx.RequestError

GOOD = httpx.Response(200, json={"key": "abcd1234", "budget": 5, "used": 0, "remaining": 5})
GET = Call("GET", "/v1/usage")
POST = Call("POST", "/v1/predict/pets", b"image")


def busy(status: int = 503, code: str = "overloaded", after: str | None = None) -> httpx.Response:
    headers = {} if after is None else {"Retry-After": after}
    body = {"error": {"code": code, "message": "No."}}
    return httpx.Response(status, json=body, headers=headers)


def drive(flow: Flow[T], *replies: Reply) -> tuple[list[float], T | ClientError]:
    """Run the flow on these replies, and return the wait before each call and its result."""
    waits = []
    try:
        call = next(flow)
        for reply in replies:
            waits.append(call.wait)
            call = flow.send(reply) if isinstance(reply, httpx.Response) else flow.throw(reply)
    except StopIteration as stop:
        result: T = stop.value
        return waits, result
    except ClientError as error:
        return waits, error
    raise AssertionError("the flow sends another request")


def send(call: Call, *replies: Reply, retries: int = 3) -> tuple[list[float], object]:
    return drive(Flows(retries=retries)._send(call), *replies)


@pytest.mark.parametrize("status", [503, 429])
@pytest.mark.parametrize("call", [GET, POST])
def test_a_retry_waits_as_long_as_the_server_asks(call: Call, status: int) -> None:
    replies = (busy(status, after="2"), busy(status, after="90"), GOOD)
    assert send(call, *replies) == ([0.0, 2.0, 30.0], GOOD)


@pytest.mark.parametrize("call", [GET, POST])
def test_retries_without_a_named_time_wait_longer_each_time(call: Call) -> None:
    waits, end = send(call, busy(), busy(), busy(), GOOD)
    assert end is GOOD
    assert waits[0] == 0
    assert all(0.1 <= wait <= bound for wait, bound in zip(waits[1:], (0.2, 0.4, 0.8), strict=True))


def test_the_last_error_is_raised_after_all_retries() -> None:
    waits, end = send(POST, *[busy(after="1")] * 3, retries=2)
    assert (waits, type(end)) == ([0.0, 1.0, 1.0], Unavailable)
    waits, end = send(POST, busy(after="1"), retries=0)
    assert (waits, type(end)) == ([0.0], Unavailable)


def test_a_retry_sends_the_same_request() -> None:
    flow = Flows(retries=1)._send(POST)
    first = next(flow)
    second = flow.send(busy(after="3"))
    assert first is POST
    assert second == Call("POST", POST.path, POST.content, POST.headers, wait=3.0)


def test_an_exhausted_budget_is_never_retried() -> None:
    _, end = send(POST, busy(429, "budget_exhausted", after="1"))
    assert type(end) is BudgetExhausted


def test_a_rate_limit_is_retried_only_if_a_time_is_named() -> None:
    assert send(POST, busy(429, "rate_limited", after="4"), GOOD) == ([0.0, 4.0], GOOD)
    _, end = send(POST, busy(429, "rate_limited"))
    assert type(end) is Unavailable


@pytest.mark.parametrize("status", [500, 502, 504])
def test_other_server_errors_are_final(status: int) -> None:
    for call in (GET, POST):
        _, end = send(call, busy(status, after="1"))
        assert type(end) is ServerError


FAILURES = [
    httpx.ConnectError("x"),
    httpx.ReadError("x"),
    httpx.WriteError("x"),
    httpx.RemoteProtocolError("x"),
]
TIMEOUTS = [httpx.ConnectTimeout("x"), httpx.ReadTimeout("x"), httpx.WriteTimeout("x")]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_lost_connection_is_retried_for_a_get_only(failure: httpx.RequestError) -> None:
    waits, end = send(GET, failure, failure, GOOD)
    assert end is GOOD
    assert len(waits) == 3
    assert min(waits[1:]) >= 0.1
    waits, end = send(POST, failure)
    assert (waits, type(end)) == ([0.0], TransportError)


@pytest.mark.parametrize("failure", TIMEOUTS, ids=repr)
@pytest.mark.parametrize("call", [GET, POST])
def test_a_timeout_is_final(failure: httpx.RequestError, call: Call) -> None:
    waits, end = send(call, failure)
    assert (waits, type(end)) == ([0.0], TransportError)


def test_a_broken_encoding_is_final() -> None:
    _, end = send(GET, httpx.DecodingError("x"))
    assert type(end) is UnexpectedAnswer


def test_an_error_keeps_its_cause() -> None:
    failure = httpx.ConnectError("refused")
    _, end = send(POST, failure)
    assert isinstance(end, TransportError)
    assert end.__cause__ is failure


def test_a_body_other_than_usage_is_refused() -> None:
    for body in (b"", b"null", b"[]", b'{"key": "k", "budget": "5", "used": 0, "remaining": 5}'):
        _, end = drive(Flows(retries=0).usage(), httpx.Response(200, content=body))
        assert type(end) is UnexpectedAnswer
    _, end = drive(Flows(retries=0).usage(), GOOD)
    assert not isinstance(end, ClientError)
    assert end.remaining == 5
