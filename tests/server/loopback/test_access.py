"""The secrets of a page: a token opens one session in a minute, and sessions are few."""

import pytest

from stingy_server.loopback.access import MAX_SESSIONS, TOKEN_LIFE_S, Access, is_csrf_token


def test_V1_token_opens_one_session_alone() -> None:
    access = Access()
    token = access.new_token()
    session = access.redeem(token)
    assert session is not None
    assert access.find(session.cookie) == session
    assert access.redeem(token) is None


def test_V1_token_is_late_after_its_life() -> None:
    now = 1000.0
    access = Access(clock=lambda: now)
    early = access.new_token()
    now += TOKEN_LIFE_S - 0.1
    assert access.redeem(early) is not None
    late = access.new_token()
    now += TOKEN_LIFE_S
    assert access.redeem(late) is None


def test_V1_new_token_ends_the_one_before() -> None:
    access = Access()
    first, second = access.new_token(), access.new_token()
    assert access.redeem(first) is None
    assert access.redeem(second) is not None


@pytest.mark.parametrize("text", ["", "x" * 43, "\udcff", "é"])
def test_V1_other_text_opens_nothing(text: str) -> None:
    access = Access()
    access.new_token()
    assert access.redeem(text) is None
    assert access.find(text) is None


def test_sessions_are_bounded_and_the_oldest_ends() -> None:
    access = Access()
    sessions = [access.redeem(access.new_token()) for _ in range(MAX_SESSIONS + 1)]
    found = [session is not None and access.find(session.cookie) for session in sessions]
    assert found == [None, *sessions[1:]]


def test_V3_csrf_token_is_that_of_its_own_session() -> None:
    access = Access()
    one, other = (access.redeem(access.new_token()) for _ in range(2))
    assert one is not None
    assert other is not None
    assert is_csrf_token(one, one.csrf)
    assert not is_csrf_token(one, other.csrf)
    assert not is_csrf_token(one, "")


def test_V1_cookies_of_two_pages_have_two_names() -> None:
    assert Access().cookie_name != Access().cookie_name
