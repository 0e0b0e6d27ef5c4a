"""The serving stage: the gate, batches of 256 beside the bare model, and single requests.

Single requests and batches of 32 pixels are measured with and without CUDA graphs.
RESULTS/serving.json gets each part when it ends, or its error if it fails.
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


def measure_gate() -> Any:
    """Time the gate beside `torch.topk`, by `gate.py`."""
    repeats = "5" if stage.REHEARSED else "300"
    command = ("serving/gate.py", "--device", stage.device(), "--repeats", repeats)
    return json.loads(stage.run_benchmark(*command, timeout_s=60))["gate"]


def measure_batches(size: int, runtime: str = "torch") -> Any:
    """Measure images/s of the bare model and over HTTP, by `batch.py`.

    size: side of the images, in pixels.
    """
    options = ("--device", stage.device(), "--size", str(size), "--seconds", SECONDS)
    options += ("--runtime", runtime)
    with tempfile.TemporaryDirectory() as cache:
        options += ("--rounds", ROUNDS, "--cache", cache)
        printed = stage.run_benchmark("serving/batch.py", *options, timeout_s=120)
    return json.loads(printed)["rounds"]


def measure_single_requests(runtime: str) -> list[dict[str, object]]:
    """Send requests of one 32 x 32 image, binary, to a ResNet-18 with all protection on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = write_resnet(folder / "bundle", size=32)
        launch = launch_stingy(
            own_python(), folder, bundle=bundle, device=stage.device(), runtime=runtime
        )
        headers, body = write_binary(images(1))
        path = f"/v2/models/{MODEL}/infer"
        request = raw_request("POST", path, headers | launch.headers, body)
        with running(launch.command, folder=folder, environment=launch.environment) as server:
            await_port(server, launch.port, timeout_s=60)
            asyncio.run(press(launch.port, request, connections=16, seconds=1.0))
            return [measure_load(server, launch.port, request, count) for count in CONNECTIONS]


def measure_load(server: Running, port: int, request: bytes, connections: int) -> dict[str, object]:
    """Measure requests/s, latency, and the server's CPU milliseconds for each request."""
    before = server.usage()
    load = asyncio.run(press(port, request, connections=connections, seconds=float(SECONDS)))
    spent = server.usage().cpu_s - before.cpu_s
    times = load.times.get(200, [])
    return {
        "connections": connections,
        "requests_per_s": len(times) / float(SECONDS),
        "p50_ms": statistics.median(times),
        "p99_ms": percentile(times, 0.99),
        "cpu_ms": 1000 * spent / len(times),
        "other_status": {status: len(t) for status, t in load.times.items() if status != 200},
    }


def main() -> int:
    parts: dict[str, Callable[[], Any]] = {
        "gate": measure_gate,
        "single": lambda: measure_single_requests("torch"),
        "single_cuda_graphs": lambda: measure_single_requests("cuda_graphs"),
        "batch_32": lambda: measure_batches(32),
        "batch_32_cuda_graphs": lambda: measure_batches(32, "cuda_graphs"),
        "batch_224": lambda: measure_batches(224),
    }
    if stage.REHEARSED:
        del parts["batch_224"]  # a minute on a CPU
        del parts["single_cuda_graphs"], parts["batch_32_cuda_graphs"]
    found: dict[str, Any] = {}
    for name, measure in parts.items():
        try:
            found[name] = measure()
        except Exception as error:  # noqa: BLE001  the other parts still run
            found[name] = {"failed": str(error)}
        stage.write("serving", **found)
        print(name, json.dumps(found[name]), flush=True)  # noqa: T201
    return int(any(isinstance(part, dict) for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
