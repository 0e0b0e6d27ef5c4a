"""Compare Stingy and the bare server on what people send: a JPEG of 500 x 375 pixels.

    python benchmarks/serving/jpeg.py

Both decode the picture, resize and crop it to 224 x 224 pixels, and run the same network on the
same kind of batches. Stingy has every layer on. The servers run in turn, each alone.
"""

import argparse
import io
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from launch import SERVERS, Launch, make_empty
from load import raw_request, run, write_requests
from PIL import Image
from results import circumstances
from running import await_port, free_ports, running
from servers.tiny_net import CLASSES, MEAN, MODEL, STD, tiny_net
from stingy_rows import launch_stingy, own_python

from stingy_protection import Preprocessing, write_bundle

PATH = f"/v1/predict/{MODEL}"
PICTURES = 16
CONNECTIONS = (1, 16)
PAUSE_S = 1.5


def pictures() -> list[bytes]:
    """Return photographs' worth of JPEG: smooth shapes with some noise, 40 to 60 KB each."""
    random = np.random.default_rng(0)
    files = []
    for _ in range(PICTURES):
        coarse = random.integers(0, 256, (12, 16, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
        noisy = smooth + random.normal(0, 6, smooth.shape)
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def launch_with_pictures(folder: Path) -> Launch:
    write_bundle(
        folder / "pictures",
        model=tiny_net(),
        name=MODEL,
        version="1",
        factory="tiny_net:tiny_net",
        arguments={},
        classes=tuple(f"class {index}" for index in range(CLASSES)),
        preprocessing=Preprocessing(
            size=(224, 224), mean=(MEAN,) * 3, std=(STD,) * 3, resize_shorter=256
        ),
        policy="stingy",
    )
    return launch_stingy(own_python(), folder, bundle=folder / "pictures")


def launch_bare(folder: Path) -> Launch:
    (port,) = free_ports(1)
    return Launch([str(own_python()), str(SERVERS / "bare_jpeg.py"), str(port)], port)


def measure(launch: Launch, folder: Path, seconds: float) -> dict[int, float]:
    """Return CPU-milliseconds a request, by the number of connections."""
    found = {}
    with running(launch.command, folder=folder, environment=launch.environment) as server:
        await_port(server, launch.port, timeout_s=90)
        time.sleep(PAUSE_S)
        headers = {"Content-Type": "image/jpeg", **launch.headers}
        requests = [raw_request("POST", PATH, headers, data) for data in pictures()]
        write_requests(folder / "requests", requests)
        run(launch.port, folder / "requests", connections=16, seconds=seconds)
        for connections in CONNECTIONS:
            before = server.usage().cpu_s
            load = run(launch.port, folder / "requests", connections=connections, seconds=seconds)
            if load.refused or load.broken or not load.requests:
                raise RuntimeError(f"expected answers only, got {load}")
            found[connections] = 1000 * (server.usage().cpu_s - before) / load.requests
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare servers on a JPEG of 500 x 375.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "stingy-bench")
    args = parser.parse_args()
    about = circumstances()
    launches = {"stingy": launch_with_pictures, "bare": launch_bare}
    taken: dict[str, list[dict[int, float]]] = {name: [] for name in launches}
    for _ in range(args.rounds):
        for name, launch in launches.items():
            folder = make_empty(args.cache / "runs" / f"jpeg-{name}")
            taken[name].append(measure(launch(folder), folder, args.seconds))
            print(name, taken[name][-1], file=sys.stderr)  # noqa: T201
    document: dict[str, object] = {**about}
    for connections in CONNECTIONS:
        own = {name: [each[connections] for each in rounds] for name, rounds in taken.items()}
        ratios = [one / other for one, other in zip(own["stingy"], own["bare"], strict=True)]
        document[f"{connections} connections"] = {
            "cpu_ms": {name: [round(each, 3) for each in values] for name, values in own.items()},
            "of_bare": round(statistics.median(ratios), 3),
            "of_bare_spread": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    print(json.dumps(document, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
