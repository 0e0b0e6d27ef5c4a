"""The Markdown table: the best round and the spread of each server and number of connections."""

from collections.abc import Sequence
from typing import Any

from launch import Server
from results import Failure, Sample

HEAD = (
    "| server | wire | connections | RPS | p50 ms | p99 ms | CPU-ms a request | "
    "of bare | lacks, or why there is no number |"
)
QUIET = 0.5  # the load average below which a machine counts as idle
RULE = "|---|---|---|---|---|---|---|---|---|"


def headline(about: dict[str, Any]) -> list[str]:
    """Return lines with date, machine, versions and, if the machine was busy, a warning."""
    own = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    peers = ", ".join(
        f"{name} {number}" for found in about["peers"].values() for name, number in found.items()
    )
    changed = " with uncommitted changes" if about["changed"] else ""
    lines = [
        f"{about['date']}, {about['machine']}, {about['cores']} cores, {about['system']}, "
        f"Python {about['python']}, commit {about['commit'][:12]}{changed}. "
        f"{about['rounds']} rounds, {about['seconds']:g} s each.",
        f"Versions: {own}. Peers: {peers or 'none'}.",
    ]
    if about["load_before"][0] > QUIET:
        lines.append(
            f"**Not to be quoted**: the machine's load was {about['load_before'][0]} before the "
            "run, so other work shared its cores."
        )
    return lines


def table(
    servers: Sequence[Server],
    samples: Sequence[Sample],
    failures: Sequence[Failure],
    *,
    baseline: str,
) -> list[str]:
    """Return the table's lines, in the order of the servers.

    A row shows the round with the least CPU time a request, with the RPS and latencies of that
    round. The brackets have the least and most CPU-ms of all rounds.

    Args:
        baseline: the name of the server whose CPU-ms at the same connections counts as 1.
    """
    lines = [HEAD, RULE]
    for server in servers:
        own = [sample for sample in samples if sample.server == server.name]
        for connections in sorted({sample.connections for sample in own}):
            base = _best(samples, baseline, connections)
            lines.append(_row(server, [s for s in own if s.connections == connections], base))
        for failure in failures:
            if failure.server == server.name:
                reason = failure.reason.replace("|", "/")
                lines.append(
                    f"| {server.name} | {server.wire.name} | - | - | - | - | - | - | "
                    f"round {failure.round}: {reason} |"
                )
    return lines


def _best(samples: Sequence[Sample], server: str, connections: int) -> float | None:
    found = [s.cpu_ms for s in samples if (s.server, s.connections) == (server, connections)]
    return min(found, default=None)


def _row(server: Server, samples: list[Sample], base: float | None) -> str:
    best = min(samples, key=lambda sample: sample.cpu_ms)
    worst = max(sample.cpu_ms for sample in samples)
    load = best.load
    ratio = "-" if base is None else f"{best.cpu_ms / base:.2f}"
    lost = sum(sample.load.refused + sample.load.broken for sample in samples)
    note = f"{server.lacks}; {lost} requests failed" if lost else server.lacks
    return (
        f"| {server.name} | {server.wire.name} | {best.connections} | {load.rps:.0f} | "
        f"{load.p50_ms:.1f} | {load.p99_ms:.1f} | {best.cpu_ms:.3f} ({best.cpu_ms:.3f}-{worst:.3f})"
        f" | {ratio} | {note} |"
    )
