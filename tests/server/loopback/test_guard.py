"""The guard of a page: every kind of request that is not the page's own is refused."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from stingy_server.loopback.access import Access
from stingy_server.loopback.guard import LoopbackGuard

pytestmark = pytest.mark.anyio

PORT = 8092
HOST = f"127.0.0.1:{PORT}"
MAX_BODY = 100
SECRET = "a text of the application"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what came in. Fail at /fault."""
    request = Request(scope, receive)
    body = await request.body()
    if request.url.path == "/fault":
        raise RuntimeError(SECRET)
    text = f"{request.method} {len(body)} {request.state.csrf}"
    await PlainTextResponse(text, headers={"Cache-Control": "max-age=9"})(scope, receive, send)


class Browser:
    """A client with the cookie of a session."""

    def __init__(self, client: httpx.AsyncClient, access: Access) -> None:
        self.client = client
        self.access = access

    async def enter(self) -> httpx.Response:
        return await self.client.get("/", params={"token": self.access.new_token()})

    async def csrf(self) -> str:
        return (await self.client.get("/")).text.split()[-1]


@pytest.fixture
async def browser_in() -> AsyncIterator[Browser]:
    """Return a browser that has no session yet."""
    access = Access()
    app = LoopbackGuard(
        application, access=access, port=PORT, max_body_bytes=MAX_BODY, another="Press Enter."
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
        yield Browser(client, access)


async def test_V1_request_without_a_session_is_401(browser_in: Browser) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE"):
        response = await browser_in.client.request(method, "/any")
        assert response.status_code == 401
        assert method == "HEAD" or "Press Enter." in response.text


async def test_V1_token_sets_a_cookie_that_no_script_reads(browser_in: Browser) -> None:
    entered = await browser_in.enter()
    (cookie,) = entered.headers.get_list("set-cookie")
    assert cookie.endswith("; Path=/; HttpOnly; SameSite=Strict")
    # The page itself loads the address without the token, so that a strict cookie goes with it.
    assert (entered.status_code, entered.headers["refresh"]) == (200, "0; url=/")
    assert (await browser_in.client.get("/")).text.startswith("GET 0 ")


async def test_V1_used_token_opens_nothing_for_another(browser_in: Browser) -> None:
    token = browser_in.access.new_token()
    assert (await browser_in.client.get("/", params={"token": token})).is_success
    browser_in.client.cookies.clear()
    second = await browser_in.client.get("/", params={"token": token})
    assert (second.status_code, "set-cookie" in second.headers) == (401, False)


async def test_used_token_with_its_session_opens_the_page(browser_in: Browser) -> None:
    token = browser_in.access.new_token()
    await browser_in.client.get("/", params={"token": token})
    second = await browser_in.client.get("/", params={"token": token})
    assert (second.status_code, second.headers["refresh"]) == (200, "0; url=/")
    assert "set-cookie" not in second.headers


async def test_V1_head_or_post_with_a_token_spends_nothing(browser_in: Browser) -> None:
    token = browser_in.access.new_token()
    for method in ("HEAD", "POST"):
        response = await browser_in.client.request(method, "/", params={"token": token})
        assert response.status_code == 401
    assert (await browser_in.client.get("/", params={"token": token})).status_code == 200


async def test_V1_two_cookies_of_its_name_are_none(browser_in: Browser) -> None:
    entered = await browser_in.enter()
    (cookie,) = (text.partition(";")[0] for text in entered.headers.get_list("set-cookie"))
    browser_in.client.cookies.clear()
    alone = await browser_in.client.get("/", headers={"Cookie": cookie})
    doubled = await browser_in.client.get("/", headers={"Cookie": f"{cookie}; {cookie}"})
    assert (alone.status_code, doubled.status_code) == (200, 401)


@pytest.mark.parametrize(
    "host", ["evil.test", f"evil.test:{PORT}", "127.0.0.1", "", f"0.0.0.0:{PORT}", f"[::1]:{PORT}"]
)
async def test_V2_other_host_is_403_even_with_a_session(browser_in: Browser, host: str) -> None:
    await browser_in.enter()
    assert (await browser_in.client.get("/", headers={"Host": host})).status_code == 403
    token = {"token": browser_in.access.new_token()}
    refused = await browser_in.client.get("/", params=token, headers={"Host": host})
    assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)


async def test_V2_two_hosts_are_403(browser_in: Browser) -> None:
    await browser_in.enter()
    twice = [("Host", HOST), ("Host", "evil.test")]
    request = httpx.Request("GET", f"http://{HOST}/", headers=twice)
    assert (await browser_in.client.send(request)).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-CSRF-Token": "x"},
        {"Origin": "http://evil.test"},
        {"Origin": "null"},
        {"Origin": f"https://{HOST}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
async def test_V3_forged_request_is_403(browser_in: Browser, headers: dict[str, str]) -> None:
    await browser_in.enter()
    # A request from elsewhere is refused even if it knows the token.
    own = {"X-CSRF-Token": await browser_in.csrf()} if headers else {}
    for method in ("POST", "DELETE", "PUT", "OPTIONS"):
        response = await browser_in.client.request(method, "/", headers=own | headers)
        assert response.status_code == 403, method
    good = {"X-CSRF-Token": await browser_in.csrf(), "Origin": f"http://{HOST}"}
    good["Sec-Fetch-Site"] = "same-origin"
    assert (await browser_in.client.post("/", headers=good)).text.startswith("POST 0 ")


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_body_over_the_limit_is_413(browser_in: Browser, is_chunked: bool) -> None:
    await browser_in.enter()
    headers = {"X-CSRF-Token": await browser_in.csrf()}

    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(size):
            yield b"x"

    def body(size: int) -> Any:
        return chunks(size) if is_chunked else b"x" * size

    fits = await browser_in.client.post("/", content=body(MAX_BODY), headers=headers)
    assert fits.text.startswith(f"POST {MAX_BODY} ")
    large = await browser_in.client.post("/", content=body(MAX_BODY + 1), headers=headers)
    assert (large.status_code, f"{MAX_BODY} bytes" in large.text) == (413, True)


async def test_V1_every_response_keeps_other_pages_out(
    browser_in: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    await browser_in.enter()
    foreign = {"Host": "evil.test"}
    for path, headers in (("/", {}), ("/fault", {}), ("/", foreign), ("/?token=x", foreign)):
        found = (await browser_in.client.get(path, headers=headers)).headers
        assert found["content-security-policy"].startswith("default-src 'self'; ")
        assert "unsafe" not in found["content-security-policy"]
        assert found.get_list("cache-control") == ["no-store"]
        assert found["referrer-policy"] == "no-referrer"
        assert found["x-content-type-options"] == "nosniff"
        assert found["x-frame-options"] == "DENY"
        assert "server" not in found


async def test_fault_of_the_page_is_a_fixed_sentence(
    browser_in: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    await browser_in.enter()
    response = await browser_in.client.get("/fault")
    assert response.status_code == 500
    assert SECRET not in response.text
    assert "a request of the page failed" in caplog.text


async def test_web_socket_is_closed() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    guard = LoopbackGuard(
        application, access=Access(), port=PORT, max_body_bytes=1, another="Press Enter."
    )
    await guard({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_path_of_the_address_stays_on_this_origin(browser_in: Browser) -> None:
    token = browser_in.access.new_token()
    request = httpx.Request("GET", f"http://{HOST}//evil.test/a b\\?token={token}")
    response: Response | httpx.Response = await browser_in.client.send(request)
    assert response.headers["refresh"] == "0; url=/evil.test/a%20b%5C"
