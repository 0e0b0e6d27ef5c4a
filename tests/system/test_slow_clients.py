"""Clients that send or read slowly lose their connection to a real server without a proxy."""

import json
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from infer_requests import tensor
from raw_http import (
    answer,
    connected,
    deaf,
    head,
    server_end,
    trickle,
    until_closed,
)
from serving import (
    make_bundle,
    make_key,
    png,
    random_images,
    served,
)
from stingy_clients import Client

PREDICT, INFER = b"/v1/predict/digits", b"/v2/models/digits/infer"
IMAGE = png(random_images(1)[0])


def test_H3_silent_connection_is_closed(server: tuple[str, str]) -> None:
    with connected(server[0]) as connection:
        started = time.monotonic()
        assert until_closed(connection) == b""
        assert 0.5 < time.monotonic() - started < 15


def test_H3_client_that_trickles_its_head_is_disconnected(server: tuple[str, str]) -> None:
    url, key = server
    with connected(url) as connection:
        assert trickle(connection, head(key, "X-A: " + "a" * 1000), every_s=0.05) < 20


def test_H3_client_that_trickles_its_next_head_is_disconnected(server: tuple[str, str]) -> None:
    url, key = server
    with connected(url) as connection:
        connection.sendall(head(key, f"Content-Length: {len(IMAGE)}") + b"\r\n" + IMAGE)
        assert answer(connection)[0] == 200
        assert trickle(connection, head(key, "X-A: " + "a" * 1000), every_s=0.05) < 20


def test_H3_client_that_sends_only_empty_lines_is_disconnected(server: tuple[str, str]) -> None:
    url, _ = server
    with connected(url) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(connection)[0] == 200
        assert trickle(connection, b"\r\n" * 500, every_s=0.02) < 15


def test_H3_client_without_key_keeps_no_connection_for_its_body(
    server: tuple[str, str],
) -> None:
    for sent in (b"x", b"x" * 1000):  # the client is then silent, or sends byte by byte
        with connected(server[0]) as connection:
            connection.sendall(head("", "Content-Length: 100000") + b"\r\n")
            assert answer(connection)[0] == 401
            if len(sent) == 1:
                connection.sendall(sent)
                assert until_closed(connection) == b""
            else:
                assert 1.5 < trickle(connection, sent, every_s=0.02) < 15


def test_H12_connection_survives_a_body_refused_before_its_end(
    server: tuple[str, str],
) -> None:
    url, key = server
    with connected(url) as connection:
        connection.sendall(head("", "Content-Length: 500000") + b"\r\n")
        assert answer(connection)[0] == 401
        for _ in range(5):
            connection.sendall(bytes(100_000))
            time.sleep(0.3)  # in all longer than a head may take
        connection.sendall(head(key, f"Content-Length: {len(IMAGE)}") + b"\r\n" + IMAGE)
        assert answer(connection)[0] == 200


def test_H4_size_of_a_head_after_a_refused_body_is_bounded(bundle: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    key = make_key(state)
    long_timeout = {"STINGY_HEADER_TIMEOUT_S": "60"}
    with served(bundle, state=state, **long_timeout) as (url, _), connected(url) as connection:
        connection.sendall(head("", "Content-Length: 1") + b"\r\n")
        assert answer(connection)[0] == 401
        connection.sendall(b"x" + head(key, "X-A: "))
        time.sleep(0.1)
        for _ in range(2):
            connection.sendall(b"a" * 12_000)
            time.sleep(0.1)
        assert trickle(connection, b"a" * 600, every_s=0.05) < 30


def test_H3_trickled_body_is_refused(server: tuple[str, str]) -> None:
    url, key = server
    with connected(url) as connection:
        connection.sendall(head(key, "Content-Length: 1000") + b"\r\n")
        started = time.monotonic()
        thread = threading.Thread(target=_trickle_body, args=(connection,))
        thread.start()
        status, body = answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (408, "timed_out")
        assert time.monotonic() - started < 15
        connection.close()
        thread.join(10)


def _trickle_body(connection: socket.socket) -> None:
    try:
        trickle(connection, bytes(1000), every_s=0.05)
    except (OSError, AssertionError):
        return


def test_H3_client_that_never_reads_is_disconnected(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", policy="stingy:n=99", num_classes=100)
    key = make_key(tmp_path / "state")
    # The answer is longer than all buffers.
    body = json.dumps(tensor(random_images(256))).encode()
    request = head(key, f"Content-Length: {len(body)}").replace(PREDICT, INFER)
    with (
        served(
            bundle,
            state=tmp_path / "state",
            STINGY_BODY_TIMEOUT_S="1",
            STINGY_ALLOW_OPEN="true",
        ) as (url, _),
        deaf(url) as connection,
    ):
        connection.sendall(request + b"\r\n" + body)
        started = time.monotonic()
        while server_end(connection):
            assert time.monotonic() - started < 5  # an idle connection is kept for longer
            time.sleep(0.05)
        assert time.monotonic() - started > 1
        lines, _, received = until_closed(connection).partition(b"\r\n\r\n")
    assert lines.startswith(b"HTTP/1.1 200")
    assert len(received) < int(lines.partition(b"content-length: ")[2].partition(b"\r\n")[0])


def test_H3_slow_senders_do_not_slow_an_honest_client(server: tuple[str, str]) -> None:
    url, key = server

    def slow_request_seconds() -> float:
        seconds = []
        with Client(url, key) as client:
            for _ in range(100):
                started = time.perf_counter()
                client.predict(IMAGE, model="digits")
                seconds.append(time.perf_counter() - started)
        return sorted(seconds)[95]

    slow_request_seconds()
    before = slow_request_seconds()
    with ExitStack() as slow:
        for _ in range(200):
            slow.enter_context(connected(url)).sendall(b"POST /v1/pre")
        during = slow_request_seconds()
    assert during < 3 * max(before, slow_request_seconds()) + 0.1
