"""A temporary Prometheus on a free port of loopback, and its promtool."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serving import free_port

SCRAPE_S = 0.25  # between two scrapes

_SETTINGS = """\
global: {{scrape_interval: {ms}ms, scrape_timeout: {ms}ms, evaluation_interval: {ms}ms}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: stingy
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@dataclass(frozen=True)
class RunningPrometheus:
    """A running Prometheus."""

    url: str

    def read(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its HTTP API."""
        response = httpx.get(f"{self.url}/api/v1/{path}", params=parameters)
        document = response.json()
        assert document["status"] == "success", document
        return document["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression, each with its labels and its present value."""
        result: list[dict[str, Any]] = self.read("query", query=expression)["result"]
        return result


def programs() -> tuple[str, str] | None:
    """Find `prometheus` and `promtool`. Return None if one is not installed."""
    found = shutil.which("prometheus"), shutil.which("promtool")
    return None if found[0] is None or found[1] is None else (found[0], found[1])


@contextlib.contextmanager
def prometheus(
    program: str, folder: Path, *, metrics_port: int, rules: Path
) -> Iterator[RunningPrometheus]:
    """Run a Prometheus that reads one server as the job `stingy`, until the block ends."""
    port = free_port()
    settings = folder / "prometheus.yaml"
    text = _SETTINGS.format(ms=round(SCRAPE_S * 1000), rules=rules, port=metrics_port)
    settings.write_text(text, encoding="utf-8")
    process = subprocess.Popen(
        [
            program,
            f"--config.file={settings}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    try:
        running = RunningPrometheus(f"http://127.0.0.1:{port}")
        # It listens before it has opened its database, and answers 503 until then.
        wait_for(lambda: httpx.get(f"{running.url}/-/ready").status_code == 200)
        wait_for(lambda: len(running.query("count_over_time(up[1m]) >= 2")) == 1)
        yield running
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Wait until a condition is true.

    Raises:
        AssertionError: it is false after so many seconds.
    """
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.TransportError):
            if condition():
                return
        assert time.monotonic() < until, "expected the condition to become true, got false"
        time.sleep(0.1)
