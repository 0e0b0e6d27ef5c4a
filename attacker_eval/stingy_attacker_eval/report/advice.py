"""The advice of an audit: which policy to run for which need, and what the audit leaves open."""

from collections.abc import Sequence
from dataclasses import dataclass

from stingy_attacker_eval.attacks import attack_types
from stingy_attacker_eval.attacks.guess import Guess
from stingy_attacker_eval.attacks.no_api import NoApi
from stingy_attacker_eval.report.analysis import Audit
from stingy_attacker_eval.report.formatting import (
    cost,
    percent,
    readable,
    share_text,
    signed_finely,
)
from stingy_attacker_eval.report.frontier import undominated
from stingy_attacker_eval.report.label_only_baseline import gives_a_list
from stingy_attacker_eval.report.verdicts import AttackerVerdict, Mark
from stingy_attacker_eval.report_schema import EndpointResult

_BASELINES = (NoApi.name, Guess.name)
_GOOD = (Mark.LABELS, Mark.NO_MORE)
_UNSHOWN = (Mark.UNCLEAR, Mark.UNCOMPARED)
_EVERYTHING = "open"


@dataclass(frozen=True)
class Choice:
    """The policy to run for one need of the clients, or the budget to give to a key.

    endpoint: None if the audit has no policy for the need.
    """

    need: str
    endpoint: str | None
    text: str


@dataclass(frozen=True)
class Advice:
    """The advice after an audit.

    choices: one for each need, and one for the budget.
    remarks: sentences on labels alone, and on what the audit does not decide.
    unable: attacks that could not run, with their endpoints.
    untried: attacks of the suite that no run tried.
    """

    choices: tuple[Choice, ...]
    remarks: tuple[str, ...]
    unable: tuple[str, ...]
    untried: tuple[str, ...]


def advice(audit: Audit, found: Sequence[AttackerVerdict]) -> Advice:
    """Choose policies out of the Pareto set of those not shown to teach more than labels.

    A policy that any attacker was shown to read more from is never chosen, nor is one that
    withholds nothing. One that is undecided is chosen only where no other will do, and the text
    says so.

    found: one verdict for each attacker.
    """
    marks = _marks(audit, found)
    is_decided = any(leak.mark is Mark.MORE for item in found for leak in item.leaks)
    closed = [item for item in audit.endpoints if item.policy != _EVERYTHING]
    allowed = undominated([item for item in closed if marks.get(item.name) in _GOOD])
    undecided = undominated([item for item in closed if marks.get(item.name) in _UNSHOWN])
    tried = {row.attack.partition("[")[0] for row in audit.report.rows}
    return Advice(
        choices=(
            *(
                _choices(allowed, undecided, _no_list_text(audit, marks), is_decided)
                if marks
                else ()
            ),
            _budget_choice(found),
        ),
        remarks=tuple(_remarks(found, marks, undecided if is_decided else (), allowed)),
        unable=tuple(
            dict.fromkeys(
                f"{readable(item.attack)} on {readable(item.endpoint)}"
                for item in audit.report.skipped
                if not item.beyond
            )
        ),
        untried=tuple(
            name for name in attack_types() if name not in tried and name not in _BASELINES
        ),
    )


def _marks(audit: Audit, found: Sequence[AttackerVerdict]) -> dict[str, Mark]:
    """Return each endpoint's mark over all attackers; none where one of them has no attack."""
    marks: dict[str, Mark] = {}
    for endpoint in audit.endpoints:
        leaks = [leak for item in found for leak in item.leaks]
        own = [leak.mark for leak in leaks if leak.endpoint.name == endpoint.name]
        if len(own) < len(found):
            continue
        order = (Mark.MORE, Mark.UNCOMPARED, Mark.UNCLEAR, Mark.NO_MORE, Mark.LABELS)
        marks[endpoint.name] = min(own, key=order.index)
    return marks


def _no_list_text(audit: Audit, marks: dict[str, Mark]) -> str:
    """State why no list is chosen, if none is."""
    lists = [item for item in audit.endpoints if gives_a_list(item)]
    if all(marks.get(item.name) is Mark.MORE for item in lists):
        return "no list of this audit: each taught more than labels alone"
    if all(item.policy == _EVERYTHING for item in lists):
        return "no list of this audit withholds anything"
    return "no list of this audit was shown to teach no more than labels alone"


def _choices(
    allowed: Sequence[EndpointResult],
    undecided: Sequence[EndpointResult],
    no_list: str,
    is_decided: bool,
) -> tuple[Choice, ...]:
    """Choose an endpoint for each need; `no_list` says why a client gets no list."""
    if not is_decided:
        return (
            _top1_choice(allowed),
            Choice(
                "need a list",
                None,
                "undecided: this audit showed no list to teach more than labels, so it proves "
                "none harmless; more seeds or a harder task may decide",
            ),
        )
    return (
        _top1_choice(allowed),
        _list_choice(allowed, undecided, no_list),
        _probability_choice(allowed, undecided),
    )


def _top1_choice(allowed: Sequence[EndpointResult]) -> Choice:
    need = "need top-1"
    if not allowed:
        return Choice(need, None, "the policy label, which this audit did not try")
    best = max(allowed, key=lambda item: (item.utility.top1, -item.utility.answer_bytes))
    size = cost(best.utility.answer_bytes)
    return Choice(need, best.name, f"top-1 {percent(best.utility.top1)} %, {size} bytes an answer")


def _list_choice(
    allowed: Sequence[EndpointResult], undecided: Sequence[EndpointResult], no_list: str
) -> Choice:
    need = "need first five"
    lists = [item for item in allowed if gives_a_list(item)]
    unshown = [item for item in undecided if gives_a_list(item)]
    if not lists and not unshown:
        return Choice(need, None, no_list)
    best = max(lists or unshown, key=lambda item: item.utility.top5)
    short = min(lists or unshown, key=lambda item: item.utility.answer_bytes)
    text = _list_text(best)
    if short.utility.answer_bytes < best.utility.answer_bytes:
        text += f"; or {readable(short.name)}: {_list_text(short)}"
    return Choice(need, best.name, text if lists else f"{text}, undecided")


def _list_text(item: EndpointResult) -> str:
    kept = item.utility
    return f"true class in {percent(kept.top5)} %, {cost(kept.answer_bytes)} bytes"


def _probability_choice(
    allowed: Sequence[EndpointResult], undecided: Sequence[EndpointResult]
) -> Choice:
    need = "need probability"
    with_ece = [(item.utility.ece, item) for item in allowed if item.utility.ece is not None]
    unshown = [(item.utility.ece, item) for item in undecided if item.utility.ece is not None]
    if not with_ece and not unshown:
        return Choice(need, None, "no policy of this audit")
    ece, best = min(with_ece or unshown, key=lambda pair: pair[0])
    text = f"off by {percent(ece)} points on average"
    return Choice(need, best.name, text if with_ece else f"{text}, undecided")


def _remarks(
    found: Sequence[AttackerVerdict],
    marks: dict[str, Mark],
    undecided: Sequence[EndpointResult],
    allowed: Sequence[EndpointResult],
) -> list[str]:
    remarks = []
    if not marks:
        return ["No policy can be chosen: on every endpoint an attacker has no attack that counts."]
    # Without a list that is allowed, the best undecided one is a choice already.
    most = max((item.utility.top5 for item in allowed if gives_a_list(item)), default=100.0)
    more = [item.name for item in undecided if item.utility.top5 > most]
    if more:
        remarks.append(f"Undecided, and keeping more of the first five: {_listed(more)}.")
    floor = _labels_share(found)
    if floor is not None:
        remarks.append(floor)
    return remarks


def _labels_share(found: Sequence[AttackerVerdict]) -> str | None:
    """State what labels alone are worth, for the attacker to which they are worth most."""
    shares = [
        (share, item)
        for item in found
        for leak in item.leaks
        if leak.labels is not None
        and leak.are_labels_measured
        and (share := leak.share_of(leak.labels)) is not None
    ]
    if not shares:
        return None
    share, item = max(shares, key=lambda pair: pair[0])
    if share < 1:
        return None
    return (
        f"Labels alone close {share_text(share)} of the gap for the attacker {item.kind}. No "
        "policy that answers prevents that; budgets, rates and the watch limit it."
    )


def _budget_choice(found: Sequence[AttackerVerdict]) -> Choice:
    """Choose the largest query budget up to which no attack gains more than the margin.

    Silence of an audit with large errors advises nothing: the upper bound of each gain counts.
    """
    need = "budget"
    measured: dict[int, bool] = {}
    bounds: dict[int, float] = {}
    has_budgets = False
    for item in found:
        view = item.view
        for s in view.summaries:
            if s.budget is None or s.endpoint not in view.best or not s.n or s.white_box:
                continue
            if not view.has_baseline(s.student, s.budget):
                continue
            has_budgets, uplift = True, view.uplift(s)
            if uplift.interval is not None and uplift.upper is not None:
                measured[s.budget] = measured.get(s.budget, False) or uplift.interval[0] > 0
                bounds[s.budget] = max(bounds.get(s.budget, 0.0), uplift.upper)
    if not measured:
        wanted = "run two seeds or more" if has_budgets else "set budgets in the protocol"
        return Choice(need, None, f"not measured: {wanted} for the curve")
    quiet = [budget for budget in sorted(measured) if not measured[budget]]
    below = [budget for budget in quiet if all(budget < b for b in measured if measured[b])]
    if not below:
        return Choice(need, None, f"even {min(measured):,} queries gave a measurable gain")
    margin = found[0].view.report.config.margin
    safe = [budget for budget in below if all(bounds[b] <= margin for b in below if b <= budget)]
    if safe:
        points = f"{margin:g} point{'' if margin == 1 else 's'}"
        text = f"{max(safe):,} images a key: up to there no gain is above {points}"
    else:
        text = (
            f"undecided: with {min(below):,} images no gain was measured, but it may be up to "
            f"{signed_finely(bounds[min(below)])} points"
        )
    return Choice(need, None, text)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(readable, names))
