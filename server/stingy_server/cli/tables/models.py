"""`stingy models list`: every version in service, its policy, its traffic and its warnings."""

from collections.abc import Iterable, Mapping, Sequence

from stingy_clients.text_table import Column, format_table, make_printable, terminal_width
from stingy_server.cli.tables.short import short_number
from stingy_server.store.deployments import Report
from stingy_server.store.ledger import Entry

COLUMNS = (
    Column("model", least=8),
    Column("version"),
    Column("share", right=True),
    Column("processes", right=True),
    Column("images/h", right=True),
    Column("fingerprint"),
)
POLICY = Column("policy")
INDENT = "  "


def model_lines(reports: Sequence[Report], images: Mapping[tuple[str, str], str]) -> list[str]:
    """Return the lines of the table, for people, and those of its warnings.

    The policy is in the line of its version if all lines fit the terminal, or in the next one.

    Args:
        reports: those of all processes.
        images: the text for the images that each name and version has answered in an hour.
    """
    versions = sorted({(report.name, report.version) for report in reports})
    rows = []
    for version in versions:
        own = [report for report in reports if (report.name, report.version) == version]
        rows.append((*version_cells(own, images.get(version, "0")), _policy(own)))
    whole = format_table((*COLUMNS, POLICY), rows)
    if max(map(len, whole)) <= terminal_width():
        lines = whole
    else:
        head, *short = format_table(COLUMNS, [row[:-1] for row in rows])
        lines = [head]
        for line, row in zip(short, rows, strict=True):
            lines += [line, f"{INDENT}{make_printable(row[-1])}"]
    warnings = sorted({text for report in reports for text in report.warnings.splitlines()})
    return [*lines, *(f"warning: {make_printable(text)}" for text in warnings)]


def version_cells(reports: Sequence[Report], images: str) -> tuple[str, ...]:
    """Return the cells of a version. Processes may differ until all have followed."""
    first = reports[0]
    shares = {"the rest" if r.share is None else f"{r.share:g}" for r in reports if r.fault is None}
    prints = {r.fingerprint for r in reports if r.fault is None}
    return (
        first.name,
        first.version,
        " or ".join(sorted(shares)),
        str(len(reports)),
        images,
        prints.pop() if len(prints) == 1 else "differ" if prints else "",
    )


def hourly_images(
    entries: Iterable[tuple[int, Entry]], *, since: str, is_cut: bool
) -> dict[tuple[str, str], str]:
    """Return the images that each name and version has answered since a time, as text.

    Args:
        entries: the latest of the ledger.
        since: in UTC, in the form of `stamp`.
        is_cut: whether earlier entries were left out. Then the numbers are lower bounds.
    """
    found: dict[tuple[str, str], int] = {}
    oldest = None
    for _, entry in entries:
        oldest = oldest or entry.time
        if entry.time >= since and entry.answered:
            version = entry.model, entry.version
            found[version] = found.get(version, 0) + entry.answered
    bound = ">" if is_cut and oldest is not None and oldest >= since else ""
    return {version: f"{bound}{short_number(count)}" for version, count in found.items()}


def _policy(reports: Sequence[Report]) -> str:
    states = sorted({r.policy if r.fault is None else f"not served: {r.fault}" for r in reports})
    return states[0] if len(states) == 1 else f"processes differ: {'; '.join(states)}"
