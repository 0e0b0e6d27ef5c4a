"""The peers, each started as its documentation advises for speed, with one model worker.

LitServe has two workers, its better setting. Where a peer has a setting for how long a batch waits
for more requests, it is `WAIT_S`.
"""

import json
import secrets
import subprocess
from pathlib import Path

from launch import SERVERS, Launch, Server
from running import NotStarted, free_ports
from servers.tiny_net import MAX_BATCH, MODEL, WAIT_S
from wire import BENTOML, BINARY, LITSERVE, MLSERVER, TORCHSERVE

UNPROTECTED = "no key, budget, policy, ledger"
PATHS = {"PYTHONPATH": str(SERVERS)}


def _script(name: str, environment: dict[str, str] | None = None):
    """Return a launcher of a script that takes its port as argument."""

    def launch(python: Path, folder: Path) -> Launch:
        (port,) = free_ports(1)
        command = [str(python), str(SERVERS / name), str(port)]
        return Launch(command, port, PATHS | (environment or {}) | {"HOME": str(folder)})

    return launch


def _torchserve(python: Path, folder: Path) -> Launch:
    ports = free_ports(5)
    store = folder / "store"
    store.mkdir()
    (folder / "model.yaml").write_text(
        f"minWorkers: 1\nmaxWorkers: 1\nbatchSize: {MAX_BATCH}\n"
        f"maxBatchDelay: {round(WAIT_S * 1000)}\n"
    )
    environment = {
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
        "LOG_LOCATION": str(folder / "logs"),
        "METRICS_LOCATION": str(folder / "logs"),
        "TEMP": str(folder),
    }
    extra = ",".join(str(SERVERS / name) for name in ("binary.py", "tiny_net.py"))
    archive = [str(python.parent / "torch-model-archiver"), "--model-name", MODEL]
    archive += ["--version", "1.0", "--handler", str(SERVERS / "torchserve_handler.py")]
    archive += ["--extra-files", extra, "--config-file", str(folder / "model.yaml")]
    packed = subprocess.run(  # noqa: S603
        [*archive, "--export-path", str(store)],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if packed.returncode:
        raise NotStarted(f"torch-model-archiver: {packed.stderr.strip()[-200:]}")
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{ports[0]}\n"
        f"management_address=http://127.0.0.1:{ports[1]}\n"
        f"metrics_address=http://127.0.0.1:{ports[2]}\n"
        f"grpc_inference_port={ports[3]}\ngrpc_management_port={ports[4]}\n"
        "disable_token_authorization=true\njob_queue_size=1024\n"
        "enable_envvars_config=false\n"
    )
    command = [str(python.parent / "torchserve"), "--foreground", "--ncs"]
    command += ["--model-store", str(store), "--models", f"{MODEL}={MODEL}.mar"]
    command += ["--ts-config", str(folder / "config.properties")]
    return Launch(command, ports[0], environment)


def _mlserver(python: Path, folder: Path) -> Launch:
    ports = free_ports(3)
    settings = {
        "host": "127.0.0.1",
        "http_port": ports[0],
        "grpc_port": ports[1],
        "metrics_endpoint": None,
        "parallel_workers": 0,  # one worker; with parallel workers each request costs more
        "debug": False,
    }
    model = {
        "name": MODEL,
        "implementation": "mlserver_runtime.Tiny",
        "max_batch_size": MAX_BATCH,
        "max_batch_time": WAIT_S,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [str(python.parent / "mlserver"), "start", str(folder)]
    return Launch(command, ports[0], PATHS)


def _bentoml(python: Path, folder: Path) -> Launch:
    (port,) = free_ports(1)
    command = [str(python.parent / "bentoml"), "serve", "bentoml_service:Tiny"]
    command += ["--working-dir", str(SERVERS), "--host", "127.0.0.1", "--port", str(port)]
    environment = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder / "home")}
    environment["PATH"] = f"{python.parent}:/usr/local/bin:/usr/bin:/bin"
    return Launch(command, port, PATHS | environment)


RAY_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_AUTH_MODE": "token",  # because Ray listens on all interfaces
    "RAY_AUTH_TOKEN": secrets.token_hex(),
    "RAY_USAGE_STATS_ENABLED": "0",
}

BARE = Server("bare FastAPI + batcher", UNPROTECTED, BINARY, _script("bare.py"), group="bare")

PEERS = (
    Server(
        "TorchServe",
        UNPROTECTED,
        TORCHSERVE,
        _torchserve,
        group="peer",
        requirements=("torchserve==0.12.0", "torch-model-archiver==0.12.0", "pyyaml", "orjson"),
        start_timeout_s=90.0,
    ),
    Server(
        "LitServe",
        f"{UNPROTECTED}; no binary tensors; two workers",
        LITSERVE,
        _script("litserve_server.py"),
        group="peer",
        requirements=("litserve==0.2.19",),
    ),
    Server(
        "MLServer",
        f"{UNPROTECTED}; no binary tensors over HTTP",
        MLSERVER,
        _mlserver,
        group="peer",
        requirements=("mlserver==1.7.1", "uvloop<0.22"),
    ),
    Server(
        "BentoML",
        f"{UNPROTECTED}; its batcher takes no binary tensors",
        BENTOML,
        _bentoml,
        group="peer",
        requirements=("bentoml==1.4.39",),
    ),
    Server(
        "Ray Serve",
        f"{UNPROTECTED}; with HAProxy and throughput-optimised",
        BINARY,
        _script("ray_server.py", RAY_ENVIRONMENT),
        group="peer",
        requirements=("ray[serve]==2.60.0", "orjson"),
        start_timeout_s=120.0,
    ),
)
