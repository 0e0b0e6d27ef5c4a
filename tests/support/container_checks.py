"""Waits, reports and small questions to containers."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from container_engine import Engine
from stingy_clients import ClientError

URL = "http://127.0.0.1:8080"
READY_S = 180
report = Console(highlight=False, markup=False, soft_wrap=True).print

# Runs in an image, and prints the files that may be started and are no libraries.
PROGRAMS = """
import os
for folder, _, files in os.walk("/"):
    if folder.split("/")[1] in ("proc", "sys", "dev"):
        continue
    for path in (os.path.join(folder, name) for name in files):
        if os.path.isfile(path) and os.access(path, os.X_OK) and ".so" not in path:
            with open(path, "rb") as file:
                if file.read(4).startswith((b"#!", b"\\x7fELF")):
                    print(os.path.realpath(path))
"""


@contextmanager
def step(title: str) -> Iterator[None]:
    began = time.monotonic()
    report(f"== {title}")
    yield
    report(f"== {title}: {time.monotonic() - began:.0f} s")


def until(condition: Callable[[], bool], *, seconds: float = READY_S) -> float:
    """Wait until something is so, and return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        time.sleep(0.2)
    return time.monotonic() - began


def is_ready(url: str) -> bool:
    def ready() -> bool:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5) as response:  # noqa: S310
            return bool(response.status == 200)

    return succeeds(ready)


def succeeds(call: Callable[[], object]) -> bool:
    """Return whether a call raises nothing and does not return False."""
    try:
        return call() is not False
    except (OSError, ClientError, AssertionError):
        return False


def made_key(printed: str) -> str:
    return str(json.loads(printed)["key"])


def rights_of(engine: Engine, container: str) -> list[str]:
    """Return the lines of the kernel about the rights of a container's first process."""
    pid = engine.docker("inspect", "--format", "{{.State.Pid}}", container).strip()
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    named = ("Uid", "CapEff", "NoNewPrivs")
    return [line.replace("\t", " ") for line in lines if line.startswith(named)]
