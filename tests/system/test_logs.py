"""Text from a client never becomes a line of a log or of the ledger."""

import json
import socket
import subprocess
from pathlib import Path

import httpx

from sample_networks import POISON
from serving import STINGY, make_bundle, make_key, png, random_images, served, server_environment

FORGED = "forged-by-a-client"
LONGEST_LINE = 1000


def send(url: str, *parts: bytes) -> None:
    """Send raw bytes, because a library would refuse to send them, and read the answer."""
    address = httpx.URL(url)
    assert address.port is not None
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        try:
            connection.sendall(b"".join(parts))
            while connection.recv(65_536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            return


def test_O2_no_request_content_reaches_logs_or_breaks_a_line(tmp_path: Path) -> None:
    forged = FORGED.encode()
    bundle = make_bundle(tmp_path / "b", factory="sample_networks:Fragile")
    state = tmp_path / "s"
    key = make_key(state).encode()
    fatal = random_images(1)[0]
    fatal[0, 0] = POISON  # the network raises an error whose text has the pixels
    image = png(fatal)
    hostile = (
        b"User-Agent: " + forged,
        b"User-Agent: \x1b[31m" + forged,
        b"User-Agent: a\r " + forged,
        b"User-Agent: a\r\n\t" + forged,
        b"User-Agent: " + forged * 60_000,
        b"X-Request-Id: " + forged + b"\nERROR " + forged,
        b"X-\x1b[2J: " + forged,
    )
    paths = (
        b"/v1/predict/digits",
        b"/v1/predict/%0d%0aERROR%20" + forged,
        b"/\x1b[31m" + forged,
        b"/\xff\xfe",
    )
    with served(bundle, state=state) as (url, process):
        for path in paths:
            for header in hostile:
                send(
                    url,
                    b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
                    b"Authorization: Bearer " + key + b"\r\n" + header + b"\r\n",
                    b"Content-Length: %d\r\n\r\n" % len(image) + image,
                )
        send(url, b"GET / HTTP/1.1\r\nAuthorization: Bearer " + forged + b"\x1b\r\n\r\n")
        send(url, forged + b"\r\n\r\n")
        headers = {"Authorization": f"Bearer {key.decode()}"}
        failed = httpx.post(f"{url}/v1/predict/digits", content=image, headers=headers)
        assert failed.status_code == 500
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr is not None
        logged = process.stderr.read()
    exported = subprocess.run(
        [*STINGY, "ledger", "export", "--state", state],
        env=server_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "RuntimeError" in logged  # the server did write logs
    for line in (*logged.split("\n"), *exported.split("\n")):
        assert FORGED not in line
        assert line.isprintable(), line
        assert len(line) < LONGEST_LINE
    entries = [json.loads(line) for line in exported.splitlines()]
    assert {entry["event"] for entry in entries} >= {"start", "internal", "not_found", "stop"}
