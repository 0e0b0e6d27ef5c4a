"""Compare Stingy, Stingy without each layer, a bare FastAPI server and five peers in one run.

    python benchmarks/serving/run.py [--peers]

Each server is started alone on loopback and serves the same network. Its answers to the same images
are checked, it is warmed up, and wrk loads it. Writes a table and all samples.
"""

import argparse
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

from engine_rows import ENGINES
from environments import NotInstalled, install, versions
from launch import Server, make_empty
from load import raw_request, run, write_requests
from peers import BARE, PEERS
from results import Failure, Sample, as_json, circumstances
from rich.console import Console
from running import NotStarted, await_port, running
from stingy_rows import ABLATIONS, STINGY, own_python
from table import headline, table
from wire import CHECKED, WrongAnswer, check, images

SERVERS = (STINGY, BARE, *PEERS, *ABLATIONS, *ENGINES)
PEERS_ALONE = (STINGY, BARE, *PEERS, *ENGINES[:2])
CONNECTIONS = (1, 16, 64)
WARM_UP = 1.0  # as a share of the seconds of one load; a JVM compiles under load
console = Console(stderr=True)


def measure(
    server: Server, python: Path, folder: Path, *, round_: int, seconds: float
) -> list[Sample]:
    """Start a server, check it, warm it up, load it and stop it.

    Raises:
        NotStarted: the server did not start.
        WrongAnswer: the server's answers differ from the model's.
    """
    launch = server.launch(python, make_empty(folder))
    with running(launch.command, folder=folder, environment=launch.environment) as process:
        await_port(process, launch.port, timeout_s=server.start_timeout_s)
        _await_answers(server, launch.port, launch.headers)
        requests = []
        for image in images(CHECKED):
            headers, body = server.wire.write(image[None])
            requests.append(raw_request("POST", server.wire.path, headers | launch.headers, body))
        write_requests(folder / "requests", requests)
        run(launch.port, folder / "requests", connections=16, seconds=WARM_UP * seconds)
        samples = []
        for connections in CONNECTIONS:
            before = process.usage()
            load = run(launch.port, folder / "requests", connections=connections, seconds=seconds)
            after = process.usage()
            samples.append(
                Sample(
                    server=server.name,
                    round=round_,
                    connections=connections,
                    load=load,
                    cpu_s=after.cpu_s - before.cpu_s,
                    rss_mb=after.rss / 2**20,
                    processes=after.processes,
                )
            )
        return samples


def _await_answers(server: Server, port: int, headers: dict[str, str]) -> None:
    """Wait for right answers, because some servers listen before their model is loaded.

    Raises:
        WrongAnswer: the answers are still wrong after the start timeout.
    """
    tries = round(server.start_timeout_s)
    for _ in range(tries - 1):
        with suppress(WrongAnswer):
            return check(server.wire, port, headers)
        time.sleep(1)
    return check(server.wire, port, headers)


def compare(
    servers: list[Server], *, cache: Path, rounds: int, seconds: float
) -> tuple[list[Sample], list[Failure], dict[str, dict[str, str]]]:
    """Measure all servers in turn, each round in another order.

    Returns:
        Samples, failures, and the versions of the packages installed for each peer.
    """
    samples: list[Sample] = []
    failures: list[Failure] = []
    pythons: dict[str, Path] = {}
    installed: dict[str, dict[str, str]] = {}
    for server in servers:
        try:
            pythons[server.name] = _python(server, cache, installed)
        except NotInstalled as error:
            failures.append(Failure(server.name, 0, str(error)))
            console.print(f"{server.name}: {error}", style="red")
    for round_ in range(1, rounds + 1):
        shift = (round_ - 1) * len(servers) // rounds
        for server in servers[shift:] + servers[:shift]:
            if server.name not in pythons:
                continue
            folder = cache / "runs" / _folder(server)
            try:
                found = measure(
                    server, pythons[server.name], folder, round_=round_, seconds=seconds
                )
            except (NotStarted, WrongAnswer, RuntimeError) as error:
                failures.append(Failure(server.name, round_, str(error)))
                console.print(f"round {round_}  {server.name}: {error}", style="red")
                continue
            samples += found
            summary = "  ".join(f"c={s.connections}: {s.cpu_ms:.3f} CPU-ms" for s in found)
            console.print(f"round {round_}  {server.name}: {summary}", highlight=False)
    return samples, failures, installed


def _folder(server: Server) -> str:
    return server.name.lower().replace(" ", "-")


def _python(server: Server, cache: Path, installed: dict[str, dict[str, str]]) -> Path:
    if not server.requirements:
        return own_python()
    with console.status(f"installing {server.name}"):
        python = install(cache / "environments" / _folder(server), server.requirements)
    names = tuple(re.split(r"[\[=<]", text)[0] for text in server.requirements)
    installed[server.name] = versions(python, names)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare Stingy with other model servers.")
    default_cache = Path.home() / ".cache" / "stingy-bench"
    parser.add_argument(
        "--cache",
        type=Path,
        default=default_cache,
        help="folder of the peers' environments and of all runs",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load; default 5")
    parser.add_argument("--rounds", type=int, default=3, help="of all servers; default 3")
    parser.add_argument("--only", help="only servers whose name contains this, and the bare one")
    parser.add_argument("--peers", action="store_true", help="without the rows of single layers")
    parser.add_argument(
        "--out", type=Path, help="path of the table and the samples, without a suffix"
    )
    args = parser.parse_args()
    cache = args.cache.resolve()
    part = (args.only or "").lower()
    chosen = PEERS_ALONE if args.peers else SERVERS
    servers = [one for one in chosen if part in one.name.lower() or one is BARE]
    about = circumstances()
    samples, failures, installed = compare(
        servers, cache=cache, rounds=args.rounds, seconds=args.seconds
    )
    about |= {"peers": installed, "seconds": args.seconds, "rounds": args.rounds}
    lines = [*headline(about), "", *table(servers, samples, failures, baseline=BARE.name)]
    out = args.out or cache / "serving"
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    out.with_suffix(".json").write_text(as_json(about, samples, failures))
    print("\n".join(lines))  # noqa: T201
    console.print(f"written to {out}.md and {out}.json", highlight=False)
    return 0 if any(sample.server == STINGY.name for sample in samples) else 1


if __name__ == "__main__":
    sys.exit(main())
