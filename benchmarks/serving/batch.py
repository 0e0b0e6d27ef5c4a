"""Measure images a second of big batches over HTTP, beside the bare model.

    python benchmarks/serving/batch.py [--device cuda] [--runtime cuda_graphs]

A ResNet-18 answers binary requests of 256 images, with every layer of the server on. In each round
the bare model runs first, in a process of its own, on random pixels in the device's memory.
"""

import argparse
import asyncio
import json
import multiprocessing
import time
from pathlib import Path

import torch
from closed_loop import press
from launch import make_empty
from load import raw_request
from results import circumstances
from running import await_port, running
from stingy_rows import launch_stingy, own_python
from torchvision.models import resnet18
from wire import images, write_binary

from stingy_protection import Preprocessing, write_bundle

BATCH = 256
CONNECTIONS = 3  # one request in the model, one arriving, one leaving
MODEL = "resnet18"


def measure_bare(device: str, size: int, seconds: float) -> float:
    """Return images a second of the network alone, on float pixels already on the device."""
    torch.set_num_threads(1)
    network = _network().to(device)
    pixels = torch.rand(BATCH, 3, size, size, device=device)
    done = 0
    with torch.inference_mode():
        for _ in range(3):
            network(pixels).cpu()
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            network(pixels).cpu()  # a batch ends when its logits reach the CPU
            done += BATCH
    return done / elapsed


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return resnet18().eval().requires_grad_(False)


def write_resnet(folder: Path, *, size: int) -> Path:
    """Write a bundle of a ResNet-18 with random weights for images of size x size pixels."""
    write_bundle(
        folder,
        model=_network(),
        name=MODEL,
        version="1",
        factory="torchvision.models:resnet18",
        arguments={},
        classes=tuple(f"class {index}" for index in range(1000)),
        preprocessing=Preprocessing(size=(size, size), mean=(0.5,) * 3, std=(0.5,) * 3),
        policy="stingy",
    )
    return folder


def measure_served(device: str, size: int, seconds: float, folder: Path, runtime: str) -> float:
    """Return images a second over HTTP."""
    launch = launch_stingy(
        own_python(),
        folder,
        bundle=write_resnet(make_empty(folder) / "bundle", size=size),
        device=device,
        runtime=runtime,
        batch_size=BATCH,
        queue_images=4 * CONNECTIONS * BATCH,
        max_body_bytes=64 * 2**20,
    )
    headers, body = write_binary(images(BATCH, size=size))
    path = f"/v2/models/{MODEL}/infer"
    request = raw_request("POST", path, headers | launch.headers, body)
    with running(launch.command, folder=folder, environment=launch.environment) as server:
        await_port(server, launch.port, timeout_s=60)
        for duration in (2.0, seconds):
            result = asyncio.run(
                press(launch.port, request, connections=CONNECTIONS, seconds=duration)
            )
    if set(result.times) != {200}:
        raise RuntimeError(f"expected status 200 only, got {sorted(result.times)}")
    # Timed from the first answer to the last: requests in flight at either end do not count.
    ends = sorted(result.answered)
    return BATCH * (len(ends) - 1) / (ends[-1] - ends[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time batches of 256 over HTTP beside the bare model."
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--size", type=int, help="pixels a side; default: 224 on a GPU, 32 on a CPU"
    )
    parser.add_argument("--runtime", default="torch", help="the server's; bare is always torch")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "stingy-bench")
    args = parser.parse_args()
    size = args.size or (32 if args.device == "cpu" else 224)
    context = multiprocessing.get_context("spawn")
    rounds = []
    for _ in range(args.rounds):
        with context.Pool(1) as pool:
            bare_rate = pool.apply(measure_bare, (args.device, size, args.seconds))
        served_rate = measure_served(
            args.device, size, args.seconds, args.cache / "runs" / "batch", args.runtime
        )
        rounds.append({"bare": bare_rate, "served": served_rate, "ratio": served_rate / bare_rate})
    about = {**circumstances(), "device": args.device, "size": size, "batch": BATCH}
    about["runtime"] = args.runtime
    print(json.dumps({**about, "rounds": rounds}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
