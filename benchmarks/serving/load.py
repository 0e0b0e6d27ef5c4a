"""Closed-loop load by wrk: each connection sends its next request once it has its answer."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
TIMEOUT_S = 20  # after which wrk counts a request as broken


@dataclass(frozen=True)
class Load:
    """The result of one run of wrk.

    Attributes:
        refused: answers with another status than 2xx or 3xx.
        broken: requests without an answer.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    broken: int

    @property
    def rps(self) -> float:
        return self.requests / self.seconds


def raw_request(method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return the bytes of an HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def write_requests(folder: Path, requests: list[bytes]) -> None:
    """Write each request to a numbered file of a folder, for wrk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, request in enumerate(requests):
        (folder / str(number)).write_bytes(request)


def run(
    port: int, folder: Path, *, connections: int, seconds: float, pause_ms: float = 0.0
) -> Load:
    """Load a server on loopback with the requests in a folder.

    Args:
        folder: the requests, from `write_requests`.
        seconds: how long; at least 1, rounded.
        pause_ms: the wait of each connection between an answer and its next request.

    Raises:
        RuntimeError: wrk is not installed, or failed.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError("expected wrk on the path, got none: apt-get install wrk")
    count = len(list(folder.iterdir()))
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    command += ["--timeout", f"{TIMEOUT_S}s", "-s", str(SCRIPT), f"http://127.0.0.1:{port}"]
    command += ["--", str(folder), str(count), str(pause_ms)]
    completed = subprocess.run(  # noqa: S603
        command, check=False, capture_output=True, text=True, timeout=seconds + 3 * TIMEOUT_S
    )
    if completed.returncode:
        raise RuntimeError(f"wrk failed: {(completed.stderr or completed.stdout).strip()[-200:]}")
    return Load(**json.loads(completed.stdout.strip().splitlines()[-1]))
