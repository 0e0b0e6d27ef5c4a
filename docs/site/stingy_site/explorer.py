"""The policy explorer: a page drawn from the committed audits of many policies.

Each row is a policy: what an honest client gets, and what the best attack on the list gained beyond
labels alone, with its 95 % interval. The page is complete without its script, which filters rows.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from stingy_attacker_eval.report.analysis import read_audit

AUDITS = {
    "frontier_cifar10": "CIFAR-10",
    "frontier_tin100": "100 classes of Tiny-ImageNet",
    "frontier_fashion": "Fashion-MNIST",
}
LATER = {
    "frontier_cifar10": "order_cifar10",
    "frontier_tin100": "order_tin100",
    "frontier_fashion": "order_fashion",
}
"""Audits of the same teachers that tried further attacks on some of the endpoints."""
WIDTH, HEIGHT, EDGE = 190, 26, 8  # of a row's figure, in units of its own
NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
OUTCOMES = {
    "more than labels alone": ("more", "more"),
    "no more than labels alone": ("less", "less than 1 more"),
    "undecided beside labels alone": ("open", "undecided"),
    "undecided beside labels alone, because no list was shown to teach more": ("open", "undecided"),
    "labels alone were not tried in the same way": ("open", "not tried"),
    "one seed": ("open", "one seed"),
    "": ("floor", "labels"),
}
INTRO = """\
---
hide-toc: true
---
# Policy explorer

Which policy leaves your clients enough, and teaches an attacker no more than labels do? Each row is
a policy that was audited on one of three data sets. The figure has the points of accuracy that the
best attack on the list gained **beyond labels alone**, with the 95 % interval. Its zero is an
endpoint that sells labels and nothing else. *More*: the gap is above 0. *Less than 1 more*: it is
below one point.

These are the audits that [Policies](policies.md#is-there-a-list-that-teaches-no-more-than-labels)
discusses. Where [a later audit](results.md#the-order-of-two-disturbed-policies) of the same
endpoint found more, the row is of that one. Read the reserves there: one network, one schedule, and
an attacker who owns the true labels of 5 % of its images and gets one answer an image. An attack
that was not tried may do better, and your data are others: [audit them](audit.md).
"""


@dataclass(frozen=True)
class Choice:
    """A policy of an audit.

    Attributes:
        endpoint: its name in the audit.
        policy: its name with options.
        top1, first5: percent of the test images whose true class is first, or among the first five.
        ece: the error of the confidence in points; None if no probability leaves.
        answer_bytes: of one answer.
        uplift: points that the best attack gained over the same attacker without the API.
        attack: the best attack.
        gap: points beyond labels alone, with its 95 % interval; None for labels themselves.
        outcome: one of `OUTCOMES`.
        untried: attacks on such a list that could not run.
    """

    endpoint: str
    policy: str
    top1: float
    first5: float
    ece: float | None
    answer_bytes: int
    uplift: float
    attack: str
    gap: tuple[float, float, float] | None
    outcome: str
    untried: tuple[str, ...] = ()


def choices(folder: Path, later: Path | None = None) -> list[Choice]:
    """Read the policies of a finished audit, those that teach least first.

    Args:
        later: an audit that tried further attacks on some endpoints. Its rows replace those where
            it found a larger gap.
    """
    found = {choice.endpoint: choice for choice in _choices(folder)}
    for choice in [] if later is None else _choices(later):
        if (choice.gap or (0.0,))[0] > (found[choice.endpoint].gap or (0.0,))[0]:
            found[choice.endpoint] = choice
    return sorted(found.values(), key=lambda choice: (choice.gap or (0.0,))[0])


def _choices(folder: Path) -> list[Choice]:
    audit = read_audit(folder)
    lists = {item.endpoint: item for item in audit.label_baselines}
    policies = {item.name: item.policy for item in audit.report.config.endpoints}
    found = []
    for point in audit.points:
        item, kept = lists.get(point.endpoint), point.utility
        gap = None
        if item is not None and item.gap.interval is not None:
            gap = (item.gap.mean, *item.gap.interval)
        found.append(
            Choice(
                endpoint=point.endpoint,
                policy=policies[point.endpoint] or point.policy,
                top1=kept.top1,
                first5=kept.top5,
                ece=kept.ece,
                answer_bytes=kept.answer_bytes,
                uplift=point.best.uplift_mean or 0.0,
                attack=point.best.attack,
                gap=gap,
                outcome="" if item is None else str(item.outcome),
                untried=() if item is None else item.skipped,
            )
        )
    return found


def explorer_page(results: Path) -> str:
    """Write the page.

    Args:
        results: the folder of the committed audits.
    """
    parts = [INTRO]
    for name, title in AUDITS.items():
        command = f"stingy audit report attacker_eval/results/{name} --format md"
        report = f'<a href="attacker_eval/results/{name}/report.html">report</a>'
        parts.append(f"## {title}\n\n`{command}` prints these numbers ({report}).")
        parts.append(table(name, title, choices(results / name, results / LATER[name])))
    return "\n\n".join(parts) + "\n"


def table(name: str, title: str, found: list[Choice]) -> str:
    """Draw the policies of an audit as one table of HTML, with a figure in each row."""
    ends = [0.0, *(end for choice in found for end in (choice.gap or ()))]
    low, high = min(ends), max(ends)
    rows = "\n".join(_row(choice, low, high) for choice in found)
    return f"""\
<div class="explorer" data-audit="{name}">
<form class="explorer-controls" hidden>
<label>True class among the first five, at least
<input type="range" name="first5" min="0" max="100" step="1" value="0"><output>0</output> %</label>
<label>Confidence off by at most
<input type="range" name="ece" min="1" max="41" step="1" value="41"><output>any</output></label>
<label><input type="checkbox" name="safe"> only lists shown to teach less than a point more</label>
</form>
<p class="explorer-answer" role="status"></p>
<div class="explorer-scroll" role="region" tabindex="0" aria-label="Policies on {escape(title)}">
<table>
<caption class="visually-hidden">Policies on {escape(title)}, those that teach least first</caption>
<thead><tr><th scope="col">policy</th><th scope="col">beyond labels, points {_axis(low, high)}</th>
<th scope="col">teaches</th><th scope="col">top-1 %</th><th scope="col">first five %</th>
<th scope="col">confidence off by</th><th scope="col">bytes</th>
<th scope="col">gain over no API</th><th scope="col">best attack</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
</div>"""


def _row(choice: Choice, low: float, high: float) -> str:
    kind, words = OUTCOMES[choice.outcome]
    if choice.untried:
        words += f"; {', '.join(choice.untried)} could not run"
    ece = "" if choice.ece is None else f"{choice.ece:.1f}"
    gap = "" if choice.gap is None else f"{choice.gap[0]:.2f}"
    return (
        f'<tr class="{kind}" data-endpoint="{escape(choice.endpoint)}" '
        f'data-first5="{choice.first5:.1f}" data-ece="{ece}" data-gap="{gap}">'
        f'<th scope="row"><code>{escape(choice.policy)}</code></th>'
        f"<td>{_figure(choice, low, high)}</td><td>{escape(words)}</td>"
        f"<td>{choice.top1:.1f}</td><td>{choice.first5:.1f}</td><td>{ece or NONE}</td>"
        f"<td>{choice.answer_bytes:,}</td><td>{signed(choice.uplift)}</td>"
        f"<td><code>{escape(choice.attack)}</code></td></tr>"
    )


def _figure(choice: Choice, low: float, high: float) -> str:
    """Draw the gap of a policy: a circle, a square or a diamond by its outcome."""
    kind, _ = OUTCOMES[choice.outcome]
    zero, middle = _place(0.0, low, high), HEIGHT / 2
    said, mark = "zero, by definition", _mark(kind, zero, middle)
    if choice.gap is not None:
        mean, least, most = choice.gap
        said = f"{signed(mean)}, from {signed(least)} to {signed(most)}"
        left, right = _place(least, low, high), _place(most, low, high)
        bar = f'<path class="bar" d="M{left:.1f},{middle}H{right:.1f}"/>'
        mark = bar + _mark(kind, _place(mean, low, high), middle)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{said}"><path class="zero" d="M{zero:.1f},0V{HEIGHT}"/>{mark}</svg>'
    )


def _mark(kind: str, x: float, y: float) -> str:
    if kind == "more":
        return f'<circle class="mark" cx="{x:.1f}" cy="{y}" r="5"/>'
    if kind == "open":
        return f'<path class="mark" d="M{x:.1f},{y - 6}l6,6l-6,6l-6,-6z"/>'
    return f'<rect class="mark" x="{x - 5:.1f}" y="{y - 5}" width="10" height="10"/>'


def _axis(low: float, high: float) -> str:
    step = 1 if high - low <= 6 else 2
    ticks = [tick for tick in range(-20, 21, step) if low <= tick <= high]
    texts = "".join(
        f'<text x="{_place(tick, low, high):.1f}" y="14" text-anchor="middle">{signed(tick, 0)}'
        "</text>"
        for tick in ticks
    )
    return (
        f'<svg class="axis" viewBox="0 0 {WIDTH} 18" width="{WIDTH}" height="18" '
        f'aria-hidden="true">{texts}</svg>'
    )


def _place(value: float, low: float, high: float) -> float:
    return EDGE + (value - low) / ((high - low) or 1.0) * (WIDTH - 2 * EDGE)


def signed(value: float, decimals: int = 1) -> str:
    """Write a number with its sign. A number that rounds to 0 has none."""
    rounded = round(value, decimals) + 0.0
    text = f"{abs(rounded):.{decimals}f}"
    return text if rounded == 0 else f"{'+' if rounded > 0 else MINUS}{text}"
