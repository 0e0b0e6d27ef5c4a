"""Real sockets: timeouts, lost connections, redirects, threads."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from fake_server import KEY, FakeServer
from fake_server import PNG as SIGNATURE
from stingy_clients import AuthError, Client, TransportError, UnexpectedAnswer

PNG = SIGNATURE + b"x"
Behaviour = Callable[[httpx.Request], httpx.Response]


@contextmanager
def serve(behaviour: Behaviour) -> Iterator[str]:
    """Run a server that answers by `behaviour`, and yield its url.

    It closes the connection if `behaviour` raises a ConnectionError.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            url = f"http://stingy.test{self.path}"
            headers = list(self.headers.items())
            request = httpx.Request(self.command, url, headers=headers, content=body)
            try:
                response = behaviour(request)
            except ConnectionError:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                if name != "content-length":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_requests_are_answered_over_a_socket(server: FakeServer) -> None:
    with serve(server) as url, Client(url, KEY) as client:
        assert client.ready()
        assert client.predict(PNG, model="pets").label == "ant"  # "x" is 120
        assert client.usage().used == 1


def test_a_wrong_key_is_refused_and_not_shown(server: FakeServer) -> None:
    with serve(server) as url, Client(url, "sk-another-key") as client:
        with pytest.raises(AuthError) as caught:
            client.usage()
        assert "another" not in f"{caught.value!r} {caught.value}"


def test_the_error_of_a_refused_connection_hides_the_key() -> None:
    with Client(closed_port(), KEY, retries=1) as client:
        assert client.ready() is False
        with pytest.raises(TransportError, match="is it running") as caught:
            client.usage()
        shown = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
        assert "secret" not in shown


def test_a_post_that_timed_out_was_sent_once(server: FakeServer) -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        response = server(request)
        if request.method == "POST":
            over.wait(60)
        return response

    over = threading.Event()
    with serve(slow) as url, Client(url, KEY, timeout=1.0) as client:
        with pytest.raises(TransportError, match=r"within the timeout.*may have been charged"):
            client.predict(PNG, model="pets")
        over.set()
    assert server.paths.count("/v1/predict/pets") == 1


def test_a_post_whose_connection_was_lost_was_sent_once(server: FakeServer) -> None:
    server.next = [None, ConnectionResetError()]
    lost = pytest.raises(TransportError, match="may have been charged")
    with serve(server) as url, Client(url, KEY) as client, lost:
        client.predict(PNG, model="pets")
    assert server.paths.count("/v1/predict/pets") == 1


def test_a_get_whose_connection_was_lost_is_retried(server: FakeServer) -> None:
    server.next = [ConnectionResetError()]
    with serve(server) as url, Client(url, KEY) as client:
        assert client.usage().budget == 500
    assert server.paths == ["/v1/usage"] * 2


def test_a_redirect_is_not_followed_with_the_key(server: FakeServer) -> None:
    def redirect(_: httpx.Request) -> httpx.Response:
        return httpx.Response(307, headers={"Location": f"{thief}/v1/usage"})

    refused = pytest.raises(UnexpectedAnswer, match="redirects are not followed")
    with serve(server) as thief, serve(redirect) as url, Client(url, KEY) as client, refused:
        client.usage()
    assert server.requests == []


def test_a_server_without_http_is_a_transport_error() -> None:
    def babble(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"220 mail.test ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=babble, args=(listening,))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with Client(url, KEY, retries=0) as client, pytest.raises(TransportError):
            client.usage()
        thread.join()


def test_one_client_serves_many_threads(server: FakeServer) -> None:
    with serve(server) as url, Client(url, KEY) as client, ThreadPoolExecutor(8) as pool:
        files = [PNG + bytes([index % 5]) for index in range(40)]
        answers = list(pool.map(lambda file: client.predict(file, model="pets"), files))
    assert [answer.top1.index for answer in answers] == [index % 5 for index in range(40)]
    assert server.charged == 40
