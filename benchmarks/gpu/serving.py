"""The serving stage: the gate, batches of 256 beside the bare model, and single requests.

Each part is written to RESULTS/serving.json as it ends; a part that fails leaves its reason there.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import stage

sys.path.append(str(stage.ROOT / "benchmarks" / "serving"))

from batch import MODEL, write_resnet
from closed_loop import percentile, press
from load import raw_request
from running import Running, await_port, running
from stingy_rows import launch_stingy, own_python
from wire import images, write_binary

SECONDS = "1" if stage.REHEARSED else "3"
ROUNDS = "1" if stage.REHEARSED else "2"
CONNECTIONS = (16,) if stage.REHEARSED else (1, 16, 64)


def gate() -> Any:
    repeats = "5" if stage.REHEARSED else "300"
    command = ("serving/gate.py", "--device", stage.device(), "--repeats", repeats)
    return json.loads(stage.printed(*command, timeout_s=60))["gate"]


def batches(size: int) -> Any:
    """Images a second of the bare model and over HTTP, by `batch.py`."""
    options = ("--device", stage.device(), "--size", str(size), "--seconds", SECONDS)
    with tempfile.TemporaryDirectory() as cache:
        options += ("--rounds", ROUNDS, "--cache", cache)
        return json.loads(stage.printed("serving/batch.py", *options, timeout_s=120))["rounds"]


def singles() -> list[dict[str, object]]:
    """One image of 32 x 32 pixels a request, binary, to a ResNet-18 with everything on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = write_resnet(folder / "bundle", size=32)
        launch = launch_stingy(own_python(), folder, bundle=bundle, device=stage.device())
        headers, body = write_binary(images(1))
        path = f"/v2/models/{MODEL}/infer"
        request = raw_request("POST", path, headers | launch.headers, body)
        with running(launch.command, folder=folder, environment=launch.environment) as server:
            await_port(server, launch.port, timeout_s=60)
            asyncio.run(press(launch.port, request, connections=16, seconds=1.0))
            return [pressed(server, launch.port, request, count) for count in CONNECTIONS]


def pressed(server: Running, port: int, request: bytes, connections: int) -> dict[str, object]:
    """Requests a second, latency, and CPU milliseconds of the server a request."""
    before = server.usage()
    seen = asyncio.run(press(port, request, connections=connections, seconds=float(SECONDS)))
    spent = server.usage().cpu_s - before.cpu_s
    times = seen.times.get(200, [])
    return {
        "connections": connections,
        "requests_per_s": len(times) / float(SECONDS),
        "p50_ms": statistics.median(times),
        "p99_ms": percentile(times, 0.99),
        "cpu_ms": 1000 * spent / len(times),
        "other_status": {status: len(t) for status, t in seen.times.items() if status != 200},
    }


def main() -> int:
    parts: dict[str, Callable[[], Any]] = {
        "gate": gate,
        "single": singles,
        "batch_32": lambda: batches(32),
        "batch_224": lambda: batches(224),
    }
    if stage.REHEARSED:
        del parts["batch_224"]  # a minute on a CPU
    found: dict[str, Any] = {}
    for name, measure in parts.items():
        try:
            found[name] = measure()
        except Exception as error:  # noqa: BLE001  the other parts are still worth their time
            found[name] = {"failed": str(error)}
        stage.write("serving", **found)
        print(name, json.dumps(found[name]), flush=True)  # noqa: T201
    return int(any(isinstance(part, dict) for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
