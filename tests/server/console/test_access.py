"""Rows V1 to V3: who opens the console, under which host, and who may change something."""

import re
import time
from pathlib import Path

import pytest

from console_pages import OPERATOR, PORT, assert_closed_to_strangers, make_state, opened, sign_in
from stingy_server.console.tokens import ConsoleAccess, make_token
from stingy_server.loopback.runner import bind

PEPPER = bytes(32)


@pytest.mark.anyio
async def test_V1_every_address_without_a_session_is_401(tmp_path: Path) -> None:
    make_state(tmp_path)
    async with opened(tmp_path, signed_in=False) as page:
        await assert_closed_to_strangers(page.client)
        page.client.cookies.set(page.access.cookie_name, "guess")
        await assert_closed_to_strangers(page.client)


@pytest.mark.anyio
async def test_V1_token_opens_a_session_once(tmp_path: Path) -> None:
    make_state(tmp_path)
    async with opened(tmp_path, signed_in=False) as page:
        entered = await sign_in(page.client, tmp_path)
        assert entered.status_code == 200
        (cookie,) = entered.headers.get_list("set-cookie")
        assert re.search("; HttpOnly; SameSite=Strict$", cookie)
        assert re.match("stingy-[0-9a-f]{16}=", cookie)
        assert (await page.client.get("/")).status_code == 200
        page.client.cookies.clear()
        second = await page.client.get(entered.request.url.raw_path.decode())
        assert second.status_code == 401
        assert "set-cookie" not in second.headers
        assert "stingy console token" in second.text


def test_V1_token_is_late_after_a_minute() -> None:
    now = time.time()
    access = ConsoleAccess(PEPPER, PORT, clock=lambda: now)
    early, late = (make_token(PEPPER, PORT, now=now) for _ in range(2))
    now += 59.9
    assert access.redeem(early) is not None
    now += 0.2
    assert access.redeem(late) is None


def test_V1_other_token_opens_nothing() -> None:
    access = ConsoleAccess(PEPPER, PORT, clock=lambda: time.time() - 10)
    now = time.time() - 10
    good = make_token(PEPPER, PORT, now=now)
    others = {
        "of another state": make_token(bytes([1]) * 32, PORT, now=now),
        "of another port": make_token(PEPPER, PORT + 1, now=now),
        "from before the start": make_token(PEPPER, PORT, now=now - 30),
        "of the future": make_token(PEPPER, PORT, now=now + 3600),
        "cut": good[:-1],
        "in other letters": good.upper(),
        "of another time": f"{int(good[:13]) - 1}{good[13:]}",
        "none": "",
        "no token": "é" * 100,
    }
    for reason, token in others.items():
        assert access.redeem(token) is None, reason
    assert access.redeem(make_token(PEPPER, PORT, now=time.time() - 10)) is not None


def test_V1_token_of_a_command_opens_a_running_console() -> None:
    access = ConsoleAccess(PEPPER, PORT)
    tokens = [make_token(PEPPER, PORT) for _ in range(3)]
    sessions = [access.redeem(token) for token in tokens]
    assert None not in sessions
    assert [access.redeem(token) for token in tokens] == [None] * 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host",
    ["evil.test", f"evil.test:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", f"127.0.0.1.:{PORT}"],
)
async def test_V2_foreign_host_is_403(tmp_path: Path, host: str) -> None:
    make_state(tmp_path)
    async with opened(tmp_path) as page:
        for path in ("/", "/state", "/console.js"):
            response = await page.client.get(path, headers={"Host": host})
            assert response.status_code == 403, path
        assert (await page.client.get("/", headers={"Host": f"localhost:{PORT}"})).is_success


def test_V2_console_listens_on_loopback_alone() -> None:
    with bind() as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "headers",
    [
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": "x" * 43},
        {"Origin": "http://evil.test"},
        {"Origin": f"http://localhost:{PORT}"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
async def test_V3_forged_change_is_403_and_changes_nothing(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    ((key, _),) = make_state(tmp_path, "mallory")
    async with opened(tmp_path, writer=OPERATOR) as page:
        response = await page.change(key.id, "revoke", **headers)
        assert response.status_code == 403
        assert (await page.key(key.id))["state"] == "valid"
        assert (await page.change(key.id, "revoke")).status_code == 200


@pytest.mark.anyio
async def test_V3_token_of_another_session_changes_nothing(tmp_path: Path) -> None:
    ((key, _),) = make_state(tmp_path, "mallory")
    async with opened(tmp_path, writer=OPERATOR) as page:
        other = str((await page.document())["csrf"])
        page.client.cookies.clear()
        await sign_in(page.client, tmp_path)
        response = await page.change(key.id, "revoke", **{"X-CSRF-Token": other})
        assert response.status_code == 403


@pytest.mark.anyio
async def test_V1_page_may_load_only_from_its_own_origin(tmp_path: Path) -> None:
    make_state(tmp_path)
    async with opened(tmp_path) as page:
        for path in ("/", "/state", "/nothing"):
            headers = (await page.client.get(path)).headers
            assert headers["content-security-policy"].startswith("default-src 'self'")
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["cache-control"] == "no-store"
            assert headers["referrer-policy"] == "no-referrer"
