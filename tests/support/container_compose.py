"""compose.yaml as a whole: brought up, queried while its services are restarted, and checked."""

import json
import shutil
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from container_checks import URL, is_ready, made_key, report, rights_of, step, until
from container_engine import Engine
from container_load import Customer
from docker_files import DOCKER
from docker_scripts import make_secrets
from serving import Pixels

SERVICES = ("edge", "torchserve", "postgres", "redis", "prometheus")
BACKUP = "/tmp/backup"  # noqa: S108  the container's own temporary folder
SETTINGS = ("--config", "/run/secrets/stingy.toml")

# Runs in a container, and prints whether it reaches an address.
REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()
    print("reached")
except OSError:
    print("not reached")
"""


class Compose:
    """compose.yaml with secrets, bundle and archive of its own."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._file = folder / "docker" / "compose.yaml"
        self._environment = {"BUNDLES": f"{folder}/bundles", "ARCHIVES": f"{folder}/archives"}
        shutil.copytree(DOCKER, folder / "docker", ignore=shutil.ignore_patterns("secrets"))
        make_secrets(folder / "docker" / "secrets", model="pets")

    def __call__(self, *arguments: str) -> str:
        return self._engine.compose(self._file, *arguments, environment=self._environment)

    def up(self, *services: str) -> None:
        self("up", "--detach", "--no-build", *services)

    def stingy(self, *arguments: str) -> str:
        """Run a command of ours in the edge's container."""
        return self("exec", "-T", "edge", "stingy", *arguments, *SETTINGS)

    def reaches(self, service: str, host: str, port: int) -> str:
        """Return whether a service reaches an address: "reached" or "not reached"."""
        return self("exec", "-T", service, "python", "-c", REACH, host, str(port)).strip()

    def container(self, service: str) -> str:
        return self("ps", "--quiet", service).strip()

    def books(self) -> dict[str, tuple[int, int]]:
        """Return the images charged, and those answered by the ledger, of each key's name."""
        listed = json.loads(self.stingy("keys", "list", "--json"))
        answered = dict.fromkeys((each["id"] for each in listed), 0)
        for line in self.stingy("ledger", "export").splitlines():
            entry = json.loads(line)
            if entry["key"] in answered:
                answered[entry["key"]] += entry["answered"]
        return {each["name"]: (each["used"], answered[each["id"]]) for each in listed}


def try_compose(engine: Engine, folder: Path, images: Pixels) -> None:
    """Bring compose up, query it while its services are restarted, and check the books."""
    compose = Compose(engine, folder)
    try:
        with step("compose up"):
            compose.up(*SERVICES)
            report(f"ready after {until(lambda: is_ready(URL)):.1f} s more")
        for service in SERVICES:
            report(f"rights of {service}:", *rights_of(engine, compose.container(service)))
        for host, port, expected in (
            ("edge", 8080, "reached"),
            ("edge", 9100, "not reached"),
            ("edge-metrics", 9100, "not reached"),
            ("postgres", 5432, "not reached"),
        ):
            found = compose.reaches("torchserve", host, port)
            report(f"{host}:{port} from TorchServe: {found}")
            assert found == expected
        options = ("--budget", "1000000", "--rate", "100000/second", "--json")
        keys = {
            name: made_key(compose.stingy("keys", "create", name, *options))
            for name in ("dogs", "cats")
        }
        try_restarts(compose, keys, images)
        with step("Prometheus scrapes the edge"):
            prometheus = address_of(engine, compose.container("prometheus"))
            until(lambda: answered_images(prometheus) > 0)
            report(f"images answered by Prometheus: {answered_images(prometheus):.0f}")
        for command in (("state", "check"), ("ledger", "verify"), ("state", "backup", BACKUP)):
            report(f"stingy {' '.join(command)}:", compose.stingy(*command).strip())
    finally:
        report(compose("logs", "--no-color", "--tail", "20"))
        compose("down", "--volumes", "--timeout", "40")


def try_restarts(compose: Compose, keys: Mapping[str, str], images: Pixels) -> None:
    """Restart each service under load, then kill some. Print and check the books of both rounds.

    A restart loses nothing, so that what customers received is what they are charged for. A service
    that is killed, and a store that ends a transaction, may leave a charge without its answer.
    """
    restart: Sequence[str] = ("restart", "--timeout", "40")
    kill: Sequence[str] = ("kill",)
    rounds = (
        (("redis", restart), ("torchserve", restart), ("edge", restart)),
        (("postgres", restart), ("torchserve", kill), ("edge", kill)),
    )
    before = compose.books()
    for exact, disturbances in zip((True, False), rounds, strict=True):
        customers = {name: Customer(URL, key, images) for name, key in keys.items()}
        for service, command in disturbances:
            with step(f"{command[0]} of {service}"):
                compose(*command, service)
                compose.up(*SERVICES)
                for customer in customers.values():
                    customer.await_answers()
        for customer in customers.values():
            customer.stop()
        books = compose.books()
        for name, customer in customers.items():
            charged, answered = (
                new - old for new, old in zip(books[name], before[name], strict=True)
            )
            report(f"{name}: {customer.received} received, {answered} answered, {charged} charged")
            report(f"{name}: errors:", dict(customer.errors))
            assert customer.received <= answered <= charged
            assert not exact or customer.received == charged
        before = books


def address_of(engine: Engine, container: str) -> str:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return engine.docker("inspect", "--format", form, container).strip()


def answered_images(prometheus: str) -> float:
    query = urllib.parse.quote("sum(stingy_images_answered_total)")
    url = f"http://{prometheus}:9090/api/v1/query?query={query}"
    with urllib.request.urlopen(url, timeout=10) as response:
        found: list[Any] = json.load(response)["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0
