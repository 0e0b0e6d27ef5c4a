"""Row H5: send ten times the allowed concurrency. The server must refuse the excess at once.

    python benchmarks/serving/overload.py

There are three loads: as many connections as the server allows, ten times as many whose clients
wait as long as `Retry-After` says, and ten times as many whose clients send again at once.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from closed_loop import percentile, press
from launch import make_empty
from load import raw_request
from results import circumstances
from running import await_port, running
from stingy_rows import launch_stingy, own_python
from wire import BINARY, check, images

ALLOWED = 16
TIMES = 10
MOST_REFUSAL_MS = 100.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Overload the server (row H5).")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "stingy-bench")
    args = parser.parse_args()
    folder = make_empty(args.cache / "runs" / "overload")
    launch = launch_stingy(own_python(), folder, max_concurrency=ALLOWED)
    headers, body = BINARY.write(images(1))
    request = raw_request("POST", BINARY.path, headers | launch.headers, body)
    with running(launch.command, folder=folder, environment=launch.environment) as server:
        await_port(server, launch.port, timeout_s=60)
        check(BINARY, launch.port, launch.headers)
        many = ALLOWED * TIMES
        loads = {"allowed": (ALLOWED, True), "patient": (many, True), "impatient": (many, False)}
        found = {
            name: asyncio.run(
                press(
                    launch.port,
                    request,
                    connections=connections,
                    seconds=args.seconds,
                    patient=patient,
                )
            )
            for name, (connections, patient) in loads.items()
        }
        check(BINARY, launch.port, launch.headers)
    over = (found["patient"], found["impatient"])
    passed = {
        "only 200 and 503": all(set(result.times) <= {200, 503} for result in over),
        "excess was refused": all(503 in result.times for result in over),
        "refusals say when to return": all(result.silent == 0 for result in over),
        "99 % of refusals within 100 ms": all(
            percentile(result.times.get(503, [0.0]), 0.99) < MOST_REFUSAL_MS for result in over
        ),
    }
    document = {
        **circumstances(),
        "allowed": ALLOWED,
        "loads": {name: result.summary() for name, result in found.items()},
        "holds": passed,
    }
    print(json.dumps(document, indent=1))  # noqa: T201
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
