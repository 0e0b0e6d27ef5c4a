"""The rows of Stingy: the server as a user starts it, and the same without one layer each."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from launch import SERVERS, Launch, Server
from running import NotStarted, free_ports
from servers.tiny_net import CLASSES, MEAN, MODEL, SIZE, STD, tiny_net
from wire import BINARY

from stingy_protection import Preprocessing, write_bundle

RATE = "1000000000/hour"  # counted at every request and never reached
BUDGET = 10**15
FULL = "everything on: key, rate, budgets, gate, ledger, meter, metrics"


def launch_stingy(
    python: Path,
    folder: Path,
    *,
    layers: str = "",
    rate: str | None = RATE,
    bundle: Path | None = None,
    **settings: Any,
) -> Launch:
    """Prepare a state folder with a key, a bundle and settings, for `stingy serve`.

    Args:
        layers: the layers to remove, separated by commas; see `servers/ablated.py`.
        rate: the key's rate, or None for a key without one.
        bundle: the bundle to serve; the tiny network by default.
        settings: more settings of the server.

    Raises:
        NotStarted: no key could be made.
    """
    port, metrics_port = free_ports(2)
    complete = {
        "state": "state",
        "port": port,
        "metrics_port": metrics_port,
        "request_rate": RATE,
        "trusted_factories": ["tiny_net", "torchvision.models"],
        **settings,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in complete.items()]
    source = bundle or write_tiny_bundle(folder / "bundle")
    lines += ["[[models]]", f"bundle = {json.dumps(str(source))}", f"budget = {BUDGET}"]
    config = folder / "stingy.toml"
    config.write_text("\n".join(lines) + "\n")
    # The present PYTHONPATH is kept, because Stingy is found there if it is not installed.
    paths = [str(SERVERS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    command = [str(python), "-m", "stingy_clients", "serve", "--config", str(config)]
    if layers:
        command = [str(python), str(SERVERS / "ablated.py"), layers, str(config)]
    headers = {"Authorization": f"Bearer {_key(python, config, rate)}"}
    return Launch(command, port, environment, headers)


def write_tiny_bundle(folder: Path) -> Path:
    write_bundle(
        folder,
        model=tiny_net(),
        name=MODEL,
        version="1",
        factory="tiny_net:tiny_net",
        arguments={},
        classes=tuple(f"class {index}" for index in range(CLASSES)),
        preprocessing=Preprocessing(size=(SIZE, SIZE), mean=(MEAN,) * 3, std=(STD,) * 3),
        policy="stingy",  # the top tenth: 10 classes
    )
    return folder


def _key(python: Path, config: Path, rate: str | None) -> str:
    command = [str(python), "-m", "stingy_clients", "keys", "create", "bench", "--json"]
    command += ["--config", str(config), "--budget", str(BUDGET), "--per-day", str(BUDGET)]
    command += ["--rate", rate] if rate else []
    completed = subprocess.run(  # noqa: S603
        command, check=False, capture_output=True, text=True
    )
    if completed.returncode:
        raise NotStarted(f"stingy keys create: {completed.stderr.strip()[-200:]}")
    return json.loads(completed.stdout)["key"]


def _row(name: str, lacks: str, group: str = "ablation", **options: Any) -> Server:
    def launch(python: Path, folder: Path) -> Launch:
        return launch_stingy(python, folder, **options)

    return Server(name, lacks, BINARY, launch, group=group)


def own_python() -> Path:
    """Return the Python that runs the benchmark, in which Stingy is installed."""
    return Path(sys.executable)


STINGY = _row("Stingy", FULL, group="stingy")
ABLATIONS = (
    _row("Stingy without key", "key not looked up", layers="key"),
    _row("Stingy without rate", "key has no rate", rate=None),
    _row("Stingy without budgets", "nothing charged", layers="budget"),
    _row("Stingy without ledger", "no record, no digest of pixels", layers="ledger"),
    _row("Stingy without metrics", "no counters", layers="metrics"),
    _row("Stingy without leak meter", "bits not read", layers="meter"),
    _row("Stingy without gate", "plain top-k, raw logits", layers="gate"),
    _row(
        "Stingy without guard",
        "no key, limits, ledger, metrics, headers",
        layers="guard",
    ),
    _row(
        "Stingy without any",
        "no guard, rate, budgets, digest, meter, gate",
        layers="key,budget,ledger,metrics,meter,gate,guard",
        rate=None,
    ),
)
