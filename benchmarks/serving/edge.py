"""Measure the edge's processor time for one request: whole, less each layer, and by function.

    python benchmarks/serving/edge.py

The benchmark calls the application in process, sixteen requests at once, with an engine that
answers immediately. There is no socket, no model and no load generator. The variants run in turn,
each in a process of its own. The product has no switch for its layers (see `servers/ablated.py`).
"""

import argparse
import asyncio
import cProfile
import itertools
import json
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import uvloop
from fastapi import FastAPI
from launch import SERVERS
from results import ROOT, circumstances
from servers.ablated import LAYERS, take_out
from servers.binary import HEADER_LENGTH
from stingy_rows import RATE, launch_stingy, own_python
from wire import BINARY, images

from stingy_protection import SparseLogits
from stingy_server import create_app
from stingy_server.codec.images import Pixels
from stingy_server.inference.batch_queue import Answered, Job, parts, resolve
from stingy_server.process.http_exchange import BODY_ARRIVED
from stingy_server.service import Service
from stingy_server.settings_sources import load_settings

EVERYTHING, NOTHING = "everything on", "without any"
FRESH = "everything on, each request with an id of its own"
AT_ONCE = 16
SHOWN = 25  # functions printed of the profile


class InstantEngine:
    """An engine without a network that answers all requests of an event-loop turn as one batch.

    It does what the model thread does for the edge: it measures the batch's leak and cuts the batch
    into answers.
    """

    def __init__(self, answer: SparseLogits) -> None:
        self._batch = SparseLogits.concatenate([answer] * AT_ONCE)
        self._jobs: list[Job] = []

    async def predict(self, images: Pixels, *, caller: str) -> Answered:
        loop = asyncio.get_running_loop()
        if not self._jobs:
            loop.call_soon(self._answer)
        self._jobs.append(Job(images, loop.create_future(), caller))
        return await self._jobs[-1].future

    async def ready(self) -> bool:
        return True

    def _answer(self) -> None:
        jobs, self._jobs = self._jobs, []
        resolve(jobs, parts(self._batch.rows(0, len(jobs)), jobs))

    async def close(self) -> None:
        """Do nothing, because nothing is open."""


def application(folder: Path, layers: list[str]) -> tuple[FastAPI, dict[str, str]]:
    """Return the server's application less these layers, and the headers of a caller."""
    launch = launch_stingy(own_python(), folder, rate=None if "rate" in layers else RATE)
    sys.path.append(str(SERVERS))  # has the network's factory
    settings, faults = load_settings(folder / "stingy.toml")
    build = take_out([layer for layer in layers if layer != "rate"], create_app)
    app = build(settings, faults=faults)
    service: Service = app.state.service
    (endpoint,) = service.fleet
    answer = endpoint.engine.answer(images(1))
    service.fleet.put(replace(endpoint, engine=InstantEngine(answer)))
    return app, launch.headers


def queries(*, fresh_ids: bool) -> Iterator[tuple[bytes, list[tuple[bytes, bytes]]]]:
    """Yield bodies of one image with their headers: one for ever, or each with an id of its own."""
    headers, body = BINARY.write(images(1))
    split = int(headers[HEADER_LENGTH])
    for number in itertools.count():
        if not fresh_ids:
            head = body[:split]
        else:
            head = orjson.dumps(orjson.loads(body[:split]) | {"id": str(number)})
        lengths = {HEADER_LENGTH: len(head), "Content-Length": len(head) + len(body) - split}
        named = {"Host": "bench", **headers, **lengths}
        yield (
            head + body[split:],
            [(name.lower().encode(), str(value).encode()) for name, value in named.items()],
        )


def request_sender(
    app: FastAPI, caller: dict[str, str], requests: int, *, fresh_ids: bool
) -> Callable[[], Awaitable[int]]:
    """Return a function that sends the application one image and returns the status.

    It can be called `requests` times.
    """
    key = [(name.lower().encode(), value.encode()) for name, value in caller.items()]
    if fresh_ids:  # made before the measurement
        prepared = iter([*itertools.islice(queries(fresh_ids=True), requests)])
    else:
        prepared = itertools.repeat(next(queries(fresh_ids=False)))
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": BINARY.path,
        "query_string": b"",
        "extensions": {BODY_ARRIVED: lambda: True},
    }

    async def send_request() -> int:
        statuses = []
        body, headers = next(prepared)
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return incoming.pop()

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        await app({**scope, "headers": [*headers, *key], "state": {}}, receive, send)  # type: ignore[arg-type]
        return int(statuses[0])

    return send_request


async def measure(send_request: Callable[[], Awaitable[int]], turns: int) -> float:
    """Return microseconds of processor time a request."""
    started = time.process_time()
    for _ in range(turns):
        statuses = await asyncio.gather(*(send_request() for _ in range(AT_ONCE)))
        if set(statuses) != {200}:
            raise RuntimeError(f"expected status 200 only, got {sorted(set(statuses))}")
    return (time.process_time() - started) * 1e6 / (turns * AT_ONCE)


def run_variant(layers: list[str], turns: int, *, profiled: bool, fresh_ids: bool) -> None:
    """Measure one variant in this process and print the result."""
    with tempfile.TemporaryDirectory() as folder:
        app, caller = application(Path(folder), layers)
        warm_up = max(1, turns // 4)
        requests = (turns + warm_up) * AT_ONCE
        send_request = request_sender(app, caller, requests, fresh_ids=fresh_ids)

        async def run() -> float:
            async with app.router.lifespan_context(app):
                await measure(send_request, warm_up)
                if not profiled:
                    return await measure(send_request, turns)
                with cProfile.Profile() as profile:
                    taken = await measure(send_request, turns)
                pstats.Stats(profile).sort_stats("tottime").print_stats(SHOWN)
                return taken

        taken = uvloop.run(run())
        print(taken)  # noqa: T201


def variants() -> dict[str, list[str]]:
    # The gate runs inside the engine, which a stand-in replaces here.
    layers = ["rate", *(layer for layer in LAYERS if layer != "gate")]
    single = {f"without {layer}": [layer] for layer in layers}
    return {EVERYTHING: [], FRESH: []} | single | {NOTHING: layers}


def run_child(layers: list[str], turns: int, *more: str) -> str:
    """Measure one variant in another process and return what it prints."""
    command = [sys.executable, __file__, "--turns", str(turns), *more]
    command += ["--variant", ",".join(layers)]
    completed = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return completed.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the edge's processor time by layer.")
    parser.add_argument("--rounds", type=int, default=5, help="of all variants")
    parser.add_argument("--turns", type=int, default=200, help=f"of {AT_ONCE} requests each")
    parser.add_argument("--profile", action="store_true", help="also print the costliest functions")
    parser.add_argument(
        "--variant", help="measure only the variant without these layers, in this process"
    )
    parser.add_argument("--fresh-ids", action="store_true", help="give each request its own id")
    args = parser.parse_args()
    if args.variant is not None:
        layers = [layer for layer in args.variant.split(",") if layer]
        run_variant(layers, args.turns, profiled=args.profile, fresh_ids=args.fresh_ids)
        return
    about = circumstances()
    taken: dict[str, list[float]] = {name: [] for name in variants()}
    for _ in range(args.rounds):
        for name, layers in variants().items():
            more = ["--fresh-ids"] if name == FRESH else []
            taken[name].append(float(run_child(layers, args.turns, *more)))
    least = {name: round(min(times)) for name, times in taken.items()}
    medians = {name: round(statistics.median(times)) for name, times in taken.items()}
    document = {**about, "least_us": least, "median_us": medians}
    print(json.dumps(document, indent=1))  # noqa: T201
    if args.profile:
        print(run_child([], args.turns, "--profile").replace(f"{ROOT}/", ""))  # noqa: T201


if __name__ == "__main__":
    main()
