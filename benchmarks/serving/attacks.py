"""Measure an honest client beside each attack on the edge, and what an attack costs the server.

    python benchmarks/serving/attacks.py [--tree DIR] [--only NAME...]

Each attack has a server of its own, with default settings, and runs in a process of its own. The
honest client sends one picture ten times a second, each on a new connection. `--tree` serves the
code of another checkout, such as an earlier commit.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from launch import SERVERS
from proctree import Usage
from results import ROOT, circumstances
from running import await_port, free_ports, running
from servers.tiny_net import CLASSES, tiny_net
from wire import BINARY, images

from stingy_protection import Preprocessing, write_bundle

SECONDS = 15.0
EVERY_S = 0.1
PATIENCE_S = 5.0
REFUSALS = 10_000
NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Target:
    """A running server, and the requests that an attack may send."""

    port: int
    key: str
    spent: str

    def request(self, key: str, body: bytes, headers: Mapping[str, str] = NONE) -> bytes:
        """Return the bytes of a query with a key. The headers may declare another length."""
        lines = {
            "Host": "bench",
            "Authorization": f"Bearer {key}",
            "Content-Length": str(len(body)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {BINARY.path} HTTP/1.1\r\n{head}\r\n".encode() + body


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def nothing(target: Target) -> None:
    """Do nothing."""


def pipelining(target: Target) -> None:
    """Send 64 strangers' connections full of requests, and read nothing."""
    burst = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 14_563
    open_ = [connect(target.port) for _ in range(64)]
    for connection in open_:
        connection.settimeout(0.05)
    while True:
        for place, connection in enumerate(open_):
            try:
                connection.send(burst)
            except TimeoutError:
                pass
            except OSError:
                connection.close()
                open_[place] = connect(target.port)
                open_[place].settimeout(0.05)


def silence(target: Target) -> None:
    """Keep 1,500 silent connections, and open each anew when it is closed."""
    open_: list[socket.socket] = []
    while True:
        alive = []
        for connection in open_:
            connection.setblocking(False)
            try:
                if connection.recv(1):
                    alive.append(connection)
                else:
                    connection.close()
            except BlockingIOError:
                alive.append(connection)
            except OSError:
                connection.close()
        open_ = alive
        with suppress(OSError):
            while len(open_) < 1500:
                open_.append(connect(target.port))
        time.sleep(0.05)


def parked_heads(target: Target) -> None:
    """Send 256 heads of one key whose bodies never come, again and again."""
    _park(target, connections=256, sent=0)


def parked_bodies(target: Target) -> None:
    """Send 26 bodies of one key that lack their last byte, a gibibyte together."""
    _park(target, connections=26, sent=40 * 2**20 - 1)


def _park(target: Target, *, connections: int, sent: int) -> None:
    head = target.request(target.key, b"", {"Content-Length": str(40 * 2**20)})
    piece = bytes(sent)
    while True:
        open_ = []
        for _ in range(connections):
            with suppress(OSError):
                connection = connect(target.port)
                connection.sendall(head)
                connection.sendall(piece)
                open_.append(connection)
        time.sleep(2.0)
        for connection in open_:
            connection.close()


def whole_batches(target: Target) -> None:
    """Send batches of 256 pictures of one key over 64 connections."""
    headers, body = BINARY.write(images(256))
    _press(target, target.request(target.key, body, headers), connections=64)


def spent_key(target: Target) -> None:
    """Send the costliest request of a spent key over four connections."""
    _press(target, costly(target), connections=4)


def costly(target: Target) -> bytes:
    """Return a request whose 256 lines would be scaled to squares."""
    pixels = np.zeros((256, 1, 48, 3), np.uint8)
    parameters = {"binary_data_size": pixels.nbytes}
    image = {"name": "image", "datatype": "UINT8", "shape": pixels.shape, "parameters": parameters}
    head = orjson.dumps({"inputs": [image]})
    length = {"Inference-Header-Content-Length": str(len(head))}
    return target.request(target.spent, head + pixels.tobytes(), length)


def _press(target: Target, request: bytes, *, connections: int) -> None:
    open_ = [connect(target.port) for _ in range(connections)]
    while True:
        for place, connection in enumerate(open_):
            try:
                connection.sendall(request)
            except OSError:
                open_[place] = connect(target.port)
        for connection in open_:
            connection.settimeout(PATIENCE_S)
            with suppress(OSError):
                connection.recv(65536)


ATTACKS: dict[str, Callable[[Target], None]] = {
    attack.__name__: attack
    for attack in (
        nothing,
        pipelining,
        silence,
        parked_heads,
        parked_bodies,
        whole_batches,
        spent_key,
    )
}


def prepare(folder: Path, python: list[str], environment: dict[str, str]) -> Target:
    """Write a bundle with its settings, and make three keys."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_bundle(
        folder / "bundle",
        model=tiny_net(),
        name="tiny",
        version="1",
        factory="tiny_net:tiny_net",
        arguments={},
        classes=tuple(f"class {index}" for index in range(CLASSES)),
        preprocessing=Preprocessing(
            size=(224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, resize_shorter=256
        ),
        policy="stingy",
    )
    (port,) = free_ports(1)
    config = folder / "stingy.toml"
    config.write_text(
        f'state = "state"\nport = {port}\ntrusted_factories = ["tiny_net"]\n'
        '[[models]]\nbundle = "bundle"\n'
    )

    def key(*options: str) -> str:
        command = [*python, "keys", "create", "k", "--config", str(config), *options]
        made = subprocess.run(  # noqa: S603
            command, check=True, capture_output=True, text=True, env=os.environ | environment
        )
        return made.stdout.split()[0]

    return Target(port, key("--budget", "1000000000"), key("--budget", "1"))


def query_honestly(target: Target, key: str, seconds: float) -> dict[str, float]:
    """Send a picture every tenth of a second, and return how that went."""
    headers, body = BINARY.write(images(1))
    request = target.request(key, body, headers)
    times, sent = [], 0
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        started = time.perf_counter()
        sent += 1
        with suppress(OSError), connect(target.port) as connection:
            connection.sendall(request)
            if connection.recv(65536).startswith(b"HTTP/1.1 200"):
                times.append(1000 * (time.perf_counter() - started))
        time.sleep(max(0.0, EVERY_S - (time.perf_counter() - started)))
    return {
        "sent": sent,
        "answered": len(times),
        "p50_ms": round(statistics.median(times), 1) if times else float("nan"),
        "p99_ms": round(sorted(times)[int(0.99 * len(times))], 1) if times else float("nan"),
    }


def one_by_one(target: Target, request: bytes, count: int) -> None:
    """Send a request so often, each after the answer to the one before."""
    connection = connect(target.port)
    for _ in range(count):
        with suppress(OSError):
            connection.sendall(request)
            if b"connection: close" in connection.recv(65536).lower():
                connection.close()
                connection = connect(target.port)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an honest client beside attacks.")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to serve")
    parser.add_argument("--only", nargs="*", choices=[*ATTACKS, "costs"])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "stingy-bench")
    args = parser.parse_args()
    rooms = ("server", "protection", "clients", "attacker_eval")
    paths = [str(SERVERS), *(str(args.tree.resolve() / room) for room in rooms)]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    python = [sys.executable, "-m", "stingy_clients"]
    folder = args.cache / "runs" / "attacks"
    document: dict[str, object] = {**circumstances(), "tree": args.tree.name}
    for name in args.only or [*ATTACKS, "costs"]:
        target = prepare(folder, python, environment)
        command = [*python, "serve", "--config", str(folder / "stingy.toml")]
        if name == "silence":
            command = ["prlimit", "--nofile=1024:1024", *command]
        with running(command, folder=folder, environment=environment) as server:
            await_port(server, target.port, timeout_s=90)
            time.sleep(1.0)
            if name == "costs":
                document[name] = costs(target, folder, server.usage)
            else:
                honest = prepare_honest(folder, python, environment)
                document[name] = beside(target, honest, name, args.seconds)
        print(name, document[name], file=sys.stderr)  # noqa: T201
    print(json.dumps(document, indent=1))  # noqa: T201


def prepare_honest(folder: Path, python: list[str], environment: dict[str, str]) -> str:
    config = str(folder / "stingy.toml")
    command = [*python, "keys", "create", "honest", "--budget", "1000000", "--config", config]
    made = subprocess.run(  # noqa: S603
        command, check=True, capture_output=True, text=True, env=os.environ | environment
    )
    return made.stdout.split()[0]


def beside(target: Target, honest: str, name: str, seconds: float) -> dict[str, float]:
    one_by_one(target, costly(target), 1)
    process = multiprocessing.Process(target=ATTACKS[name], args=(target,), daemon=True)
    process.start()
    try:
        time.sleep(1.0)
        return query_honestly(target, honest, seconds)
    finally:
        process.kill()


def costs(target: Target, folder: Path, usage: Callable[[], Usage]) -> dict[str, float]:
    """Return what refusals cost: processor time, the ledger's bytes and the log's bytes."""
    headers, body = BINARY.write(images(1))
    one_by_one(target, target.request(target.spent, body, headers), 1)  # spends the key
    before = usage().cpu_s
    one_by_one(target, costly(target), 20)
    spent = usage().cpu_s - before
    state = size_of(folder / "state")
    one_by_one(target, target.request(target.spent, b"x"), REFUSALS)
    grown = size_of(folder / "state") - state
    log = (folder / "log").stat().st_size
    one_by_one(target, b"GET / HTTP/1.1\r\nbroken\r\n\r\n", REFUSALS)
    return {
        "cpu_s_of_a_costly_request_of_a_spent_key": round(spent / 20, 4),
        "bytes_of_state_after_10000_refusals": grown,
        "bytes_of_log_after_10000_malformed": (folder / "log").stat().st_size - log,
    }


if __name__ == "__main__":
    main()
