"""Verification of the ledger's chains: each entry has the hash that its content gives.

Whoever may write the store can rebuild a chain. A head that was kept elsewhere shows that.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from stingy_server.maintenance.reader import CHAINED_FROM, Reader
from stingy_server.store.ledger import NO_HASH, PRUNED, Entry, Head, link

COLUMNS = ", ".join(Entry._fields)
REPORTED = 1000  # entries between two reports of progress


@dataclass(frozen=True)
class Verification:
    """The result for a whole ledger.

    Attributes:
        chained: the entries in chains.
        unchained: the entries of release 0.1.0, which had no chains.
        broken: for each chain, the first entry or gap at which it is broken.
        outside: the first entry in no chain behind entries that are in one. A server of release
            0.1.0 that runs beside this release writes such entries too.
        notes: what could not be verified.
    """

    chained: int
    unchained: int
    broken: list[str]
    outside: list[str]
    notes: list[str]

    @property
    def faults(self) -> list[str]:
        return self.outside + self.broken


@dataclass
class _Chain:
    """A chain as far as it was read. It goes on where a `pruned` entry says that it was cut."""

    number: int = 0
    hash: bytes = NO_HASH
    cut: int = 0
    cut_hash: bytes = NO_HASH
    fault: str | None = None


@dataclass
class _Ledger:
    """A ledger that is read entry by entry."""

    kept: dict[tuple[str, int], set[bytes]]  # the heads kept elsewhere, by writer and number
    chains: dict[str, _Chain] = field(default_factory=dict)
    chained: int = 0
    unchained: int = 0
    broken: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(
    reader: Reader,
    *,
    against: Sequence[Head] = (),
    on_entries: Callable[[int], None] = lambda count: None,
) -> Verification:
    """Verify every chain of a ledger from its start, or from where it was pruned, to its head.

    Args:
        against: heads that were kept elsewhere, each of which must be in its chain.
        on_entries: called with a number of further entries, so that progress can be shown.

    Raises:
        StoreUnavailable: the state cannot be read.
    """
    if reader.version < CHAINED_FROM:
        (count,) = next(reader.rows("SELECT COUNT(*) FROM ledger"))
        return Verification(0, count, [], [], ["release 0.1.0 wrote this ledger, without chains"])
    kept: dict[tuple[str, int], set[bytes]] = {}
    for head in against:
        kept.setdefault((head.writer, head.number), set()).add(head.hash)
    ledger = _Ledger(kept)
    _read_cuts(reader, ledger)
    for seq, writer, number, hashed, *values in reader.rows(
        f"SELECT seq, writer, number, hash, {COLUMNS} FROM ledger ORDER BY seq"  # noqa: S608
    ):
        if writer:
            _follow(ledger, seq, Head(writer, number, hashed), values)
        else:
            _pass_unchained(ledger, seq)
        if (ledger.chained + ledger.unchained) % REPORTED == 0:
            on_entries(REPORTED)
    heads = read_heads(reader)
    ledger.broken += [chain.fault for chain in ledger.chains.values() if chain.fault is not None]
    ledger.broken += _head_faults(ledger, heads)
    ledger.broken += _kept_faults(ledger, against)
    return Verification(
        ledger.chained, ledger.unchained, ledger.broken, ledger.outside, ledger.notes
    )


def read_heads(reader: Reader) -> list[Head]:
    """Return the heads of all chains, in the order of their writers."""
    if reader.version < CHAINED_FROM:
        return []
    rows = reader.rows("SELECT writer, number, hash FROM ledger_heads ORDER BY writer")
    return [Head(*row) for row in rows]


def _read_cuts(reader: Reader, ledger: _Ledger) -> None:
    """Start each chain where the latest `pruned` entry says that it was cut."""
    for seq, detail in reader.rows(
        "SELECT seq, detail FROM ledger WHERE event = ? ORDER BY seq", (PRUNED,)
    ):
        try:
            cuts = [*_cuts(detail)]
        except (AttributeError, KeyError, TypeError, ValueError):
            ledger.broken.append(f"entry {seq}: expected where it cut the chains, got other text")
            continue
        for head in cuts:
            ledger.chains[head.writer] = _Chain(head.number, head.hash, head.number, head.hash)


def _cuts(detail: str) -> Iterator[Head]:
    """Yield the cuts of a `pruned` entry, each as the head that the deleted part had."""
    for writer, (number, hashed) in orjson.loads(detail)["chains"].items():
        yield Head(writer, int(number), bytes.fromhex(hashed))


def _follow(ledger: _Ledger, seq: int, head: Head, values: Sequence[Any]) -> None:
    """Verify an entry as the next of its chain. A broken chain is not followed further."""
    ledger.chained += 1
    chain = ledger.chains.setdefault(head.writer, _Chain())
    if chain.fault is not None:
        return
    name, expected = f"chain {head.writer}", chain.number + 1
    if head.number > expected:
        missing = head.number - expected
        chain.fault = (
            f"{name}: expected its number {expected}, got {head.number} in entry {seq}: "
            f"{missing} {'entry' if missing == 1 else 'entries'} before it missing"
        )
    elif head.number < expected:
        chain.fault = (
            f"{name}: expected its number {expected}, got {head.number} in entry {seq}: "
            "it was inserted or moved"
        )
    elif link(head.writer, head.number, chain.hash, values) != head.hash:
        chain.fault = (
            f"{name}: entry {seq}, number {head.number}, does not have the hash that its content "
            "and the hash before it give: one of them was changed"
        )
    elif ledger.kept.get((head.writer, head.number), {head.hash}) != {head.hash}:
        chain.fault = (
            f"{name}: entry {seq}, number {head.number}, does not have the hash of the head that "
            "was kept elsewhere: the chain was rebuilt"
        )
    else:
        chain.number, chain.hash = head.number, head.hash


def _pass_unchained(ledger: _Ledger, seq: int) -> None:
    ledger.unchained += 1
    if ledger.chained and not ledger.outside:
        ledger.outside.append(
            f"entry {seq}: in no chain, behind entries that are in one: a server of release 0.1.0 "
            "wrote it beside this release, or it was inserted by hand"
        )


def _head_faults(ledger: _Ledger, heads: Sequence[Head]) -> Iterator[str]:
    """Compare the end of each chain with the head that the store has of it."""
    known = {head.writer: head for head in heads}
    for writer in sorted(ledger.chains.keys() | known.keys()):
        chain = ledger.chains.get(writer, _Chain())
        if chain.fault is not None:
            continue
        head = known.get(writer)
        if head is None:
            yield f"chain {writer}: expected its head in the store, got none"
        elif chain.number < head.number:
            yield (
                f"chain {writer}: expected {head.number} entries, as its head says, got "
                f"{chain.number}: its end is missing"
            )
        elif (chain.number, chain.hash) != (head.number, head.hash):
            yield f"chain {writer}: it does not end with the head that the store has of it"


def _kept_faults(ledger: _Ledger, kept: Sequence[Head]) -> Iterator[str]:
    """Compare the chains with heads that were kept elsewhere, beside what `_follow` compares."""
    for writer, number, hashed in kept:
        chain = ledger.chains.get(writer, _Chain())
        if chain.fault is not None:
            continue
        if number > chain.number:
            yield (
                f"chain {writer}: expected at least {number} entries, as the head kept elsewhere "
                f"says, got {chain.number}: its end was cut, or an earlier state was restored"
            )
        elif number < chain.cut:
            ledger.notes.append(
                f"chain {writer}: the head kept elsewhere has the number {number}, and the entries "
                f"up to {chain.cut} were pruned"
            )
        elif number == chain.cut and hashed != chain.cut_hash:
            yield f"chain {writer}: it was pruned at another hash than that of the head kept"
