"""The tiles of a verdict: a title, a few large words, and a sentence, for page and terminal."""

from dataclasses import dataclass
from decimal import Decimal

from stingy_attacker_eval.attacks import attack_types
from stingy_attacker_eval.report.analysis import choice_remark, unanswered
from stingy_attacker_eval.report.formatting import (
    cost,
    readable,
    share_text,
    signed,
    two_errors,
    with_errors,
)
from stingy_attacker_eval.report.verdicts import AttackerVerdict, Leak
from stingy_attacker_eval.report_schema import Attacker


@dataclass(frozen=True)
class Tile:
    """One part of the verdict: a title, a few large words, and a sentence.

    is_quiet: True if nothing was measured.
    """

    title: str
    lead: str
    text: str
    is_quiet: bool = False


def tiles(found: AttackerVerdict) -> tuple[Tile, Tile, Tile]:
    """Return the tiles LEAKS, WORST ATTACKER and PRICE of one attacker."""
    leak = found.worst
    if leak is None:
        reason = unanswered(found.view)
        return (
            Tile("Leaks", "nothing to report", reason, is_quiet=True),
            Tile("Worst attacker", _owner(found.view.attacker), "no attack counts", is_quiet=True),
            Tile("Price", "unknown", "no attack counts", is_quiet=True),
        )
    return _leak_tile(found, leak), _attacker_tile(found, leak), _price_tile(leak)


def _leak_tile(found: AttackerVerdict, leak: Leak) -> Tile:
    points, where = signed(leak.uplift.mean), leak.title
    if leak.uplift.error is None:
        text = f"{points} points from {where}{leak.no_error}"
        return Tile("Leaks", "not measurable: no error", text, is_quiet=True)
    if not leak.is_measured:
        text = f"the best attack gained {points} points from {where}, not shown to be above 0"
        lead = f"nothing measurable ({two_errors(leak.uplift.error)})"
        return Tile("Leaks", lead, text, is_quiet=True)
    points = with_errors(leak.uplift.mean, leak.uplift.error)
    least = found.least
    more = ""
    if least is not None and least is not leak:
        more = f"; least from {least.title}, {signed(least.uplift.mean)}"
    if leak.share is None:
        text = f"from {where}, although your model is no better than the attacker's own{more}"
        return Tile("Leaks", f"{points} points", text)
    lead = f"{share_text(leak.share)} of the gap to your model"
    return Tile("Leaks", lead, f"{points} points from {where}{more}")


def _attacker_tile(found: AttackerVerdict, leak: Leak) -> Tile:
    known = attack_types().get(leak.best.attack_name)
    recipe = readable(leak.best.attack) + (f" ({known.title})" if known is not None else "")
    remark = choice_remark(found.view, leak.endpoint.name)
    text = f"by {recipe}, student {readable(leak.best.student)}. {remark}".rstrip()
    return Tile("Worst attacker", _owner(found.view.attacker), text, is_quiet=not leak.is_measured)


def _price_tile(leak: Leak) -> Tile:
    queries = leak.best.queries
    lead = "no query" if queries == 0 else f"{cost(queries)} queries"
    price = "your price for 1,000 queries"
    text = price if queries == 1000 else f"{Decimal(queries) / 1000:,f} times {price}"
    if not leak.is_measured:
        text += ", for nothing measurable"
    return Tile("Price", lead, text, is_quiet=not leak.is_measured)


def _owner(attacker: Attacker) -> str:
    """Return the attacker's possessions in a few words."""
    parts = {
        1.0: ["owns all true labels"],
        0.0: ["owns no true label"],
    }.get(attacker.labelled, [f"owns {100 * attacker.labelled:g} % of the labels"])
    if attacker.pretrained is not None:
        parts.append("a pretrained network")
    if attacker.answers is not None and attacker.answers > 1:
        parts.append(f"{attacker.answers} answers an image")
    return ", ".join(parts)
