"""Row H11: send good and bad requests for a long time and check that the server does not grow.

    python benchmarks/serving/soak.py --minutes 60

The load is a share of the server's capacity. Memory, files and threads are sampled from outside
after every slice of load. The output has their slopes with standard errors. The exit status is 1
if the row does not hold. It judges anonymous memory: the pages of files, as of PyTorch's libraries,
come and go with what other processes read.
"""

import argparse
import json
import socket
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import load
from launch import make_empty
from results import circumstances
from running import Running, await_port, running
from stingy_rows import launch_stingy, own_python
from wire import BINARY, CHECKED, check, images

CONNECTIONS = 16
WARM_UP = 0.2  # the share of samples left out of a slope, because caches fill first
MOST_MB_AN_HOUR = 1.0
# Each of the store's three queues, and its probe, starts one thread with one connection (two files)
# when the store is locked for the first time.
LATE_THREADS, LATE_FILES = 4, 8
SLOPES = ("rss_mb", "anonymous_mb", "files", "threads", "p99_ms")
LEAST_MINUTES = 30  # in less time the noise of the resident size exceeds the promise


@dataclass(frozen=True)
class SoakSample:
    """A sample of the server after one slice of load."""

    minute: float
    rss_mb: float
    anonymous_mb: float
    files: int
    threads: int
    rps: float
    p99_ms: float
    refused: int
    broken: int


def build_requests(headers: dict[str, str]) -> list[bytes]:
    """Return sixteen good requests, and one for each refusal that keeps the connection open."""
    requests = []
    for image in images(CHECKED):
        own, body = BINARY.write(image[None])
        requests.append(load.raw_request("POST", BINARY.path, own | headers, body))
    own, body = BINARY.write(images(1))
    wrong_key = {"Authorization": "Bearer stingy_wrong"}
    bad = [
        ("POST", BINARY.path, own | wrong_key, body),
        ("POST", BINARY.path, own, body),
        ("POST", "/v2/models/unknown/infer", own | headers, body),
        ("POST", BINARY.path, own | headers, body[:-1]),
        ("POST", BINARY.path, headers, b'{"inputs": []}'),
        ("POST", BINARY.path, headers, b"\xff" * 5000),
        ("POST", "/v1/predict/tiny", headers, b"\x89PNG\r\n\x1a\n broken"),
        ("POST", BINARY.path, own | headers | {"Content-Encoding": "gzip"}, body),
        ("GET", "/nothing/here", headers, b""),
        ("DELETE", BINARY.path, headers, b""),
    ]
    return requests + [load.raw_request(*parts) for parts in bad]


def disturb(port: int, request: bytes) -> None:
    """Close connections early: within the head, within the body, and before the answer."""
    for upto in (20, len(request) - 100, len(request)):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(request[:upto])


def slope(samples: list[SoakSample], name: str) -> tuple[float, float]:
    """Fit a line to the samples after the warm-up: its slope an hour and standard error."""
    kept = samples[int(len(samples) * WARM_UP) :]
    hours = [sample.minute / 60 for sample in kept]
    values = [float(getattr(sample, name)) for sample in kept]
    if len(kept) < 4:
        return 0.0, float("inf")
    fit = statistics.linear_regression(hours, values)
    spread = sum((hour - statistics.mean(hours)) ** 2 for hour in hours)
    rest = sum(
        (value - fit.intercept - fit.slope * hour) ** 2
        for hour, value in zip(hours, values, strict=True)
    )
    return fit.slope, (rest / (len(kept) - 2) / spread) ** 0.5


def growth(samples: list[SoakSample], name: str) -> int:
    """Return how much a number is above its value after the warm-up, at the end."""
    return int(getattr(samples[-1], name) - getattr(samples[int(len(samples) * WARM_UP)], name))


def soak(
    server: Running, port: int, folder: Path, *, minutes: float, share: float
) -> list[SoakSample]:
    capacity = load.run(port, folder, connections=CONNECTIONS, seconds=5).rps
    # At full load a request takes CONNECTIONS / capacity seconds; a pause stretches that.
    pause_ms = 1000 * CONNECTIONS / capacity * (1 / share - 1)
    slice_s = min(30.0, max(2.0, 60 * minutes / 20))
    request = (folder / "0").read_bytes()
    samples = []
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < 60 * minutes:
        found = load.run(port, folder, connections=CONNECTIONS, seconds=slice_s, pause_ms=pause_ms)
        disturb(port, request)
        time.sleep(0.5)  # lets the server notice the closed connections
        now = server.usage()
        samples.append(
            SoakSample(
                minute=elapsed / 60,
                rss_mb=now.rss / 2**20,
                anonymous_mb=now.anonymous / 2**20,
                files=now.files,
                threads=now.threads,
                rps=found.rps,
                p99_ms=found.p99_ms,
                refused=found.refused,
                broken=found.broken,
            )
        )
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description="Soak the server (row H11).")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--share", type=float, default=0.7, help="of the server's capacity")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "stingy-bench")
    args = parser.parse_args()
    document = {**circumstances(), "share": args.share}
    folder = make_empty(args.cache / "runs" / "soak")
    launch = launch_stingy(own_python(), folder)
    load.write_requests(folder / "requests", build_requests(launch.headers))
    with running(launch.command, folder=folder, environment=launch.environment) as server:
        await_port(server, launch.port, timeout_s=60)
        check(BINARY, launch.port, launch.headers)
        requests = folder / "requests"
        samples = soak(server, launch.port, requests, minutes=args.minutes, share=args.share)
        check(BINARY, launch.port, launch.headers)
    slopes = {name: slope(samples, name) for name in SLOPES}
    slope_mb, error = slopes["anonymous_mb"]
    late = {"threads": growth(samples, "threads"), "files": growth(samples, "files")}
    passed = (
        slope_mb < MOST_MB_AN_HOUR
        and late["threads"] <= LATE_THREADS
        and late["files"] <= LATE_FILES
    )
    verdict = "holds" if passed else "does not hold"
    if args.minutes < LEAST_MINUTES or error > MOST_MB_AN_HOUR:
        verdict += f", but the slope's error is {error:.1f} MB an hour: run for longer"
    document |= {
        "slopes_an_hour": {name: {"slope": a, "error": b} for name, (a, b) in slopes.items()},
        "after_the_warm_up": late,
        "verdict": verdict,
        "moments": [asdict(sample) for sample in samples],
    }
    print(json.dumps(document, indent=1))  # noqa: T201
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
