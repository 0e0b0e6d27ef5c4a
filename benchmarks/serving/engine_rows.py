"""The rows of Stingy with other engines than the embedded one on torch; every layer is on."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from launch import SERVERS, Launch, Server
from peers import RAY_ENVIRONMENT
from running import NotStarted, free_ports
from servers.tiny_net import MODEL
from stingy_rows import FULL, launch_stingy, write_tiny_bundle
from wire import BINARY

ROOT = Path(__file__).parents[2]
MLSERVER = ROOT / ".integration" / "mlserver" / "bin" / "mlserver"
RUNTIME = ROOT / "docs" / "mlserver"


def _stingy(python: Path, *arguments: str | Path) -> None:
    """Run a `stingy` command that prepares a server.

    Raises:
        NotStarted: the command failed.
    """
    command = [str(python), "-m", "stingy_clients", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(SERVERS)}
    completed = subprocess.run(  # noqa: S603
        command, check=False, capture_output=True, text=True, env=environment
    )
    if completed.returncode:
        raise NotStarted(f"stingy {arguments[0]}: {completed.stderr.strip()[-200:]}")


def _write_trust(folder: Path) -> Path:
    """Write settings for a command that loads the tiny network."""
    config = folder / "trusting.toml"
    config.write_text('trusted_factories = ["tiny_net"]\n')
    return config


def _add_upstream(launch: Launch, command: list[str], **environment: str) -> Launch:
    """Extend a launch of the edge so that it also starts a model server."""
    config = launch.command[-1]
    command = [launch.command[0], str(SERVERS / "behind.py"), config, *command]
    return Launch(command, launch.port, launch.environment | environment, launch.headers)


def _set_engine(folder: Path, **settings: Any) -> None:
    """Append engine settings to the one model of the settings file."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    with (folder / "stingy.toml").open("a") as file:
        file.write("\n".join(lines) + "\n")


def _onnxruntime(python: Path, folder: Path) -> Launch:
    return launch_stingy(python, folder, runtime="onnxruntime")


def _fused(python: Path, folder: Path) -> Launch:
    bundle = write_tiny_bundle(folder / "bundle")
    artefact = folder / "artefact"
    config = _write_trust(folder)
    _stingy(python, "bundle", "export", bundle, "--fuse", "--out", artefact, "--config", config)
    return launch_stingy(python, folder, bundle=artefact)


def _torchserve(python: Path, folder: Path) -> Launch:
    program = python.parent / "torchserve"
    if not program.exists():
        raise NotStarted("needs torchserve: make test-integration")
    launch = launch_stingy(python, folder)
    config = _write_trust(folder)
    store = folder / "store"
    _stingy(
        python,
        *("torchserve", "archive", folder / "bundle", "--export-path", store, "--config", config),
    )
    port = 9280  # TorchServe also takes the four ports after it
    properties = folder / "config.properties"
    _stingy(
        python,
        *("torchserve", "config", "--model-store", store, "--port", str(port)),
        *("--out", properties),
    )
    _set_engine(
        folder,
        engine="torchserve",
        url=f"http://127.0.0.1:{port}/predictions/{MODEL}",
        key_file=str(folder / "key_file.json"),
    )
    return _add_upstream(
        launch,
        [str(program), "--foreground", "--ncs", "--ts-config", str(properties)],
        PATH=f"{python.parent}:{os.environ['PATH']}",
        LOG_LOCATION=str(folder / "logs"),
        METRICS_LOCATION=str(folder / "logs"),
        TEMP=str(folder),
        TMPDIR=str(folder),
    )


def _mlserver(python: Path, folder: Path) -> Launch:
    if not MLSERVER.exists():
        raise NotStarted("needs mlserver: make test-integration")
    launch = launch_stingy(python, folder)
    port, grpc_port, metrics_port = free_ports(3)
    served = folder / "mlserver"
    served.mkdir()
    shutil.copy(RUNTIME / "runtime.py", served)
    ports = {"http_port": port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    model = {"name": MODEL, "parameters": {"uri": str(folder / "bundle")}}
    for name, changes in {"settings.json": ports, "model-settings.json": model}.items():
        document = json.loads((RUNTIME / name).read_text("utf-8"))
        (served / name).write_text(json.dumps(document | changes), "utf-8")
    _set_engine(
        folder,
        engine="oip",
        url=f"http://127.0.0.1:{port}/v2/models/{MODEL}/infer",
        tensors={},
    )
    text = (folder / "stingy.toml").read_text().replace("tensors = {}", "tensors.binary = false")
    (folder / "stingy.toml").write_text(text)
    return _add_upstream(launch, [str(MLSERVER), "start", str(served)])


def _ray(python: Path, folder: Path) -> Launch:
    if importlib.util.find_spec("ray") is None:
        raise NotStarted("needs ray[serve]: make test-integration")
    launch = launch_stingy(python, folder)
    config = folder / "stingy.toml"
    removed = ("port", "metrics_port")
    lines = [line for line in config.read_text().splitlines() if not line.startswith(removed)]
    lines += ["[ray]", "edge = { num_cpus = 0.5 }", "model = { num_cpus = 0.5 }"]
    config.write_text("\n".join(lines) + "\n")
    command = [sys.executable, str(SERVERS / "ray_stingy.py"), str(launch.port), str(config)]
    metrics_port, stats_port = free_ports(2)
    environment = launch.environment | RAY_ENVIRONMENT
    environment |= {
        "HOME": str(folder),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
    }
    return Launch(command, launch.port, environment, launch.headers)


ENGINES = tuple(
    Server(f"Stingy on {name}", f"{FULL}; {lacks}", BINARY, launch, group="engine", **options)
    for name, lacks, launch, options in (
        ("ONNX Runtime", "the network in ONNX Runtime", _onnxruntime, {}),
        ("a fused artefact", "network and gate in ONNX Runtime", _fused, {}),
        ("TorchServe", "network and gate in TorchServe", _torchserve, {"start_timeout_s": 120.0}),
        ("MLServer", "network and gate in MLServer, JSON", _mlserver, {"start_timeout_s": 120.0}),
        ("Ray", "network and gate in a Ray replica", _ray, {"start_timeout_s": 120.0}),
    )
)
