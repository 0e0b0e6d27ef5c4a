"""Compute the table of docs/scale.md: the resources for a number of requests a second.

    python benchmarks/scale/table.py

The measurements are read from the tables of docs/scale.md and docs/speed.md. Run this
again after a measurement is replaced: a test compares the page with its output.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
RATES = (10, 1_000, 100_000)
FILLED = 0.7  # the share of a core's time in use
DAY_S = 86_400
POSTGRES = "PostgreSQL, commit waits for the disk"


@dataclass(frozen=True)
class StoreRow:
    """A row of `store.py`: requests a second, and CPU milliseconds of a request."""

    requests_per_s: float
    process_ms: float
    store_ms: float


@dataclass(frozen=True)
class Measurements:
    """The measurements on the two pages.

    Attributes:
        edge_ms: CPU milliseconds a request of the whole server, with SQLite and a tiny network.
        model_ms: CPU milliseconds an image of a ResNet-18.
        entry_bytes: bytes of a ledger entry, by store.
        stores: the rows of `store.py`, by store and way.
    """

    edge_ms: float
    model_ms: float
    entry_bytes: dict[str, int]
    stores: dict[tuple[str, str], list[StoreRow]]

    def best(self, store: str, way: str) -> StoreRow:
        """Return the row with most requests a second, for any number of processes."""
        return max(self.stores[store, way], key=lambda row: row.requests_per_s)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n ").split("|")]


def measured(scale: str, speed: str) -> Measurements:
    """Read the measurements from the two pages.

    Raises:
        ValueError: a page lacks a row, or has it more than once.
    """
    # The first such row is that of the comparison with the peers.
    edge, *_ = re.findall(r"^\| Stingy \| binary \| 16 \|.*$", speed, re.MULTILINE)
    (model,) = re.findall(r"^\| a ResNet-18 alone.*\| (\d+) \|", scale, re.MULTILINE)
    (entries,) = re.findall(r"(\d+) bytes in SQLite and (\d+) in PostgreSQL", scale)
    stores: dict[tuple[str, str], list[StoreRow]] = {}
    for line in re.findall(r"^\| (?:SQLite|PostgreSQL).*\| \d+ \| \d+ \|.*$", scale, re.MULTILINE):
        store, way, _, rate, _, _, process, own = cells(line)
        row = StoreRow(float(rate), float(process), 0.0 if own == "-" else float(own))
        stores.setdefault((store, way), []).append(row)
    return Measurements(
        edge_ms=float(cells(edge)[6].split()[0]),
        model_ms=float(model),
        entry_bytes=dict(zip(("SQLite", "PostgreSQL"), map(int, entries), strict=True)),
        stores=stores,
    )


def table(found: Measurements) -> str:
    """Return the table, in Markdown."""
    group = {store: found.best(store, "group") for store in ("SQLite", POSTGRES)}
    remote_ms = found.edge_ms - group["SQLite"].process_ms + group[POSTGRES].process_ms
    rows = [["requests/s", *(f"{rate:,}" for rate in RATES)]]
    for name, ms in (("SQLite", found.edge_ms), ("PostgreSQL", remote_ms)):
        cells = [f"{cores(rate, ms)}, {processes(rate, ms)}" for rate in RATES]
        rows.append([f"edge with {name}: cores, and processes ({ms:.3f} ms)", *cells])
    rows.append(
        [f"model: cores, if a ResNet-18 on processors ({found.model_ms:g} ms)"]
        + [cores(rate, found.model_ms) for rate in RATES]
    )
    for way, label in (("alone", "alone"), ("group", "in groups"), ("lease", "with leases")):
        ms = found.best(POSTGRES, way).store_ms
        rows.append(
            [f"PostgreSQL: cores, {label} ({ms:.3f} ms)", *(cores(rate, ms) for rate in RATES)]
        )
    for store, row in group.items():
        most, name = row.requests_per_s, store.partition(",")[0]
        rows.append(
            [f"of the {most:,.0f} that one shared budget carried in {name}, in groups"]
            + [share(rate / most) for rate in RATES]
        )
    for store, size in found.entry_bytes.items():
        rows.append(
            [f"ledger a day, {store} ({size} bytes an entry)"]
            + [size_text(rate * DAY_S * size) for rate in RATES]
        )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def core_count(rate: float, ms: float) -> float:
    """Return the cores for `rate` requests a second of `ms` CPU milliseconds each."""
    return rate * ms / 1000 / FILLED


def processes(rate: float, ms: float) -> str:
    """Return the number of server processes, each of which runs its Python on one core."""
    return f"{math.ceil(core_count(rate, ms)):,}"


def cores(rate: float, ms: float) -> str:
    return two_figures(core_count(rate, ms))


def share(part: float) -> str:
    return f"{two_figures(100 * part)} %" if part <= 1 else f"impossible: {two_figures(part)} times"


def size_text(count: float) -> str:
    return f"{two_figures(count / 1e9)} GB" if count < 1e12 else f"{two_figures(count / 1e12)} TB"


def two_figures(value: float) -> str:
    """Format a number with two significant figures, which is as much as was measured."""
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def main() -> None:
    pages = [(DOCS / name).read_text(encoding="utf-8") for name in ("scale.md", "speed.md")]
    print(table(measured(*pages)))  # noqa: T201


if __name__ == "__main__":
    main()
