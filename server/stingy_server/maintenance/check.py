"""A check of the state: its pages, pepper, tables, triggers, chains, budgets and rates."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from stingy_server.maintenance.opening import open_reader
from stingy_server.maintenance.reader import Reader, file_tables, new_file
from stingy_server.maintenance.verify import verify
from stingy_server.rates.rate import parse_rate
from stingy_server.store.base import StoreUnavailable
from stingy_server.store.budgets import key_owner
from stingy_server.store.pepper import check_pepper, read_pepper


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes:
        faults: what is not as it should be.
        notes: what was found right, and what could not be checked.
    """

    faults: list[str]
    notes: list[str]


def check_state(
    state: Path, store: str | None, *, on_entries: Callable[[int], None] = lambda count: None
) -> Check:
    """Check a state. Nothing in it is changed, and servers may run.

    Args:
        state: the folder.
        store: the address of a PostgreSQL; None for the file in the folder.
        on_entries: called with a number of further entries of the ledger, as `verify` does.

    Raises:
        StoreUnavailable: the state cannot be read.
    """
    faults: list[str] = []
    with closing(open_reader(state, store)) as reader:
        notes = [f"a state of version {reader.version} in {_name(reader)}"]
        if damage := reader.damage():
            # The rest would say nothing, because its answers come from the damaged pages.
            return Check([f"pages: {fault}" for fault in damage], notes)
        if reader.kind == "postgresql":
            notes.append("pages: not checked; see pg_amcheck")
        faults += _pepper(reader, state) + _tables(reader)
        faults += [f"triggers: {fault}" for fault in reader.trigger_faults()]
        verified = verify(reader, on_entries=on_entries)
        faults += [f"ledger: {fault}" for fault in verified.faults]
        notes += [f"ledger: {note}" for note in verified.notes]
        notes.append(
            f"ledger: {verified.chained} entries in chains, {verified.unchained} of release 0.1.0"
        )
        compared, found = _budgets(reader)
        faults += [f"budgets: {fault}" for fault in found]
        notes.append(
            f"budgets: {compared} keys, each charged for at least what the ledger has as answered"
            if not found
            else f"budgets: {compared} keys compared with the ledger"
        )
        faults += [f"rates: {fault}" for fault in _rates(reader)]
    return Check(faults, notes)


def _name(reader: Reader) -> str:
    return {"sqlite": "a file", "postgresql": "PostgreSQL"}[reader.kind]


def _pepper(reader: Reader, state: Path) -> list[str]:
    try:
        pepper = read_pepper(state, create=False)
        if reader.pepper_digest is not None:
            check_pepper(pepper, reader.pepper_digest)
    except OSError:
        return [f"pepper: expected one in {state}, got none"]
    except StoreUnavailable as error:
        return [f"pepper: {error}"]
    return []


def _tables(reader: Reader) -> list[str]:
    with closing(new_file(":memory:", reader.version)) as reference:
        expected = file_tables(reference)
    found = reader.columns()
    missing = [
        f"{table}.{column}"
        for table, columns in expected.items()
        for column in columns
        if column not in found.get(table, set())
    ]
    return [f"tables: expected the column {name}, got none" for name in missing]


def _budgets(reader: Reader) -> tuple[int, list[str]]:
    """Compare each key's charges with the images that the ledger has as answered.

    A key is charged before its answer, and for some requests that get none. So it was charged for
    at least what was answered. Pruned entries only lower what is answered.
    """
    answered = {
        key: int(images)
        for key, images in reader.rows(
            "SELECT key, SUM(answered) FROM ledger WHERE event = 'answer' GROUP BY key"
        )
    }
    budgets = {row["owner"]: row for row in reader.table("budgets")}
    faults = []
    keys = [row["id"] for row in reader.table("keys")]
    for id in keys:
        budget = budgets.get(key_owner(id))
        if budget is None:
            faults.append(f"key {id}: expected a budget, got none")
        elif budget["used"] < answered.get(id, 0):
            faults.append(
                f"key {id}: expected at least {answered[id]} images charged, which the ledger has "
                f"as answered, got {budget['used']}"
            )
        elif budget["used"] < max(budget["day_used"], budget.get("month_used", 0)):
            faults.append(f"key {id}: expected no more images in a day or a month than in all")
    return len(keys), faults


def _rates(reader: Reader) -> list[str]:
    """Return the keys whose rate cannot be read, so that each of their queries is refused.

    Release 0.1.0 took texts of rates that are none, such as "600/minute; 9/second".
    """
    faults = []
    for row in reader.table("keys"):
        for name in ("rate", "request_rate"):
            text = row.get(name)
            if text is None or row["revoked"] is not None:
                continue
            try:
                parse_rate(text)
            except ValueError as error:
                option = f"--{name.replace('_', '-')}"
                faults.append(f"key {row['id']}: {error}; see: stingy keys set ID {option}")
    return faults
