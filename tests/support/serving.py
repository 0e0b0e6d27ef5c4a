"""Helpers to make bundles, and to query an application or a real server."""

import io
import multiprocessing
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import torch
from fastapi import FastAPI
from PIL import Image
from torch import nn

from stingy_protection import Preprocessing, write_bundle
from stingy_server import Budgets, Database, Keys, ModelSettings, Settings, create_app
from stingy_server.models.endpoints import Endpoint, start_endpoints
from stingy_server.models.loading import LoadedModel, load_bundles
from stingy_server.store.budgets import key_owner

SUPPORT = Path(__file__).parent
STINGY = (sys.executable, "-m", "stingy_clients")
PREPROCESSING = Preprocessing(size=(8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
RATE = "100000/second"  # more than a test asks for on any machine
Pixels = npt.NDArray[np.uint8]


def make_bundle(
    folder: Path,
    *,
    factory: str = "sample_networks:linear",
    policy: str = "stingy",
    name: str = "digits",
    version: str = "1",
    num_classes: int = 10,
    seed: int = 0,
    gain: float = 8.0,
    **arguments: Any,
) -> Path:
    """Write a bundle of a sample network with random weights to `folder`."""
    torch.manual_seed(seed)
    module, _, attribute = factory.partition(":")
    arguments = {"num_classes": num_classes, **arguments}
    network: nn.Module = getattr(import_module(module), attribute)(**arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(gain)
    write_bundle(
        folder,
        model=network,
        name=name,
        version=version,
        factory=factory,
        arguments=arguments,
        classes=tuple(f"class {index}" for index in range(num_classes)),
        preprocessing=PREPROCESSING,
        policy=policy,
    )
    return folder


def make_settings(state: Path, *models: ModelSettings | Path, **options: Any) -> Settings:
    """Make settings for these bundles, which trust the sample networks."""
    return Settings(
        state=state,
        models=tuple(
            model if isinstance(model, ModelSettings) else ModelSettings(bundle=model)
            for model in models
        ),
        trusted_factories=("sample_networks", "torchvision.models"),
        **{"device": "cpu", "request_rate": RATE, **options},
    )


def load_one(settings: Settings) -> LoadedModel:
    """Load the one model of these settings, without faults."""
    (model,), faults = load_bundles(settings)
    assert faults == []
    return model


def start_one(settings: Settings) -> Endpoint:
    """Start the endpoint of the one model of these settings, without faults."""
    (endpoint,), faults = start_endpoints([load_one(settings)], settings, secret=bytes(16))
    assert faults == []
    return endpoint


def make_key(
    state: Path, *, store: str | None = None, budget: int = 1_000_000, **options: Any
) -> str:
    with closing(Database(state, store=store)) as database:
        return Keys(database).create("test", budget=budget, **options)[1]


@asynccontextmanager
async def running(
    settings: Settings, *, budget: int = 1_000_000
) -> AsyncIterator[tuple[httpx.AsyncClient, FastAPI]]:
    """Run the application in this process, with a client that has a key."""
    app = create_app(settings)
    key = make_key(settings.state, store=settings.store, budget=budget)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://stingy",
            headers={"Authorization": f"Bearer {key}"},
        ) as client,
    ):
        yield client, app


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(
    *arguments: str | Path, state: Path, files: str | None = None, **environment: str
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run a real `stingy serve` on a free port, and give its address and its process.

    Args:
        files: the limits of open files as "SOFT:HARD"; None for those of this process.
    """
    limited = [] if files is None else ["prlimit", f"--nofile={files}"]
    process = subprocess.Popen(
        [*limited, *STINGY, "serve", *arguments, "--state", state, "--port", "0"],
        env=server_environment() | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if match := re.search(r"listening on (\S+)", line):
                break
        else:
            raise AssertionError("the server did not start:\n" + "".join(lines))
        yield match[1], process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def server_environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(SUPPORT),
        "STINGY_TRUSTED_FACTORIES": '["sample_networks", "stingy_attacker_eval.students"]',
        "STINGY_REQUEST_RATE": RATE,
        "COLUMNS": "200",
    }


def random_images(count: int, *, size: int = 8, seed: int = 0) -> Pixels:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 254, (count, size, size, 3), np.uint8)


def png(image: Pixels, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", **options)
    return buffer.getvalue()


def charged(state: Path) -> int:
    """Return the images that all keys of a state folder have been charged for."""
    with closing(Database(state)) as database:
        return sum(budget.used for _, budget in Keys(database).all())


def spend(
    state: Path,
    key_id: str,
    tries: int,
    granted: "multiprocessing.Queue[int]",
    *,
    store: str | None = None,
) -> None:
    """Spend a shared budget in one process, and put the number of granted images in `granted`."""
    with closing(Database(state, store=store, lock_timeout_s=60)) as database:
        budgets = Budgets(database)
        owners = [key_owner(key_id)]
        granted.put(sum(budgets.reserve(owners, 1) is not None for _ in range(tries)))


def log_of(process: "subprocess.Popen[str]") -> list[str]:
    """Return the rest of a server's log, without the head of the ledger that it ends with."""
    assert process.stderr is not None
    return [line for line in process.stderr if "stingy.ledger: head of the ledger" not in line]
