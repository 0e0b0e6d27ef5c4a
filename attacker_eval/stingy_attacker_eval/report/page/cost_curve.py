"""The curve of accuracy and agreement over the number of queries, as inline SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stingy_attacker_eval.report.formatting import percent
from stingy_attacker_eval.report.page.scale import Scale, scale_of
from stingy_attacker_eval.results import NO_ENDPOINT, Summary, candidates, choice

_WIDTH, _HEIGHT = 420, 250
_LEFT, _TOP, _BOTTOM, _RIGHT = 40, 26, 34, 24
_COLOURS = 6
# A disc, a square, a diamond, two triangles, a cross: colour alone never tells lines apart.
_MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-4 -4h8v8h-8z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 -5L5 4h-10z",
    "M0 5L5 -4h-10z",
    "M-4 -4L4 4M-4 4L4 -4",
)
_BASELINE = "no API, as many images"


@dataclass(frozen=True)
class Line:
    """One line: the best attack of an endpoint at each number of queries, fewest first."""

    name: str
    points: dict[int, Summary]
    figure: Markup


@dataclass(frozen=True)
class CostCurve:
    """The curve of one student: two panels, the lines, and the text for those who cannot view it.

    lines: the endpoints, in the order of their colours; the baseline is the last.
    """

    student: str
    panels: tuple[Markup, ...]
    lines: tuple[Line, ...]
    text: str


def cost_curve(summaries: Sequence[Summary], *, student: str) -> CostCurve | None:
    """Draw accuracy and agreement of each endpoint's best attack at each budget.

    Only attacks that were run at several budgets count. The whole transfer set is the largest
    budget. Returns None if there is no such attack.
    """
    tried = {s.attack for s in summaries if s.budget is not None}
    own = [
        s
        for s in summaries
        if s.student == student
        and s.n
        and (s.endpoint == NO_ENDPOINT or s.attack in tried)
        and not s.white_box
    ]
    found = {
        name: line
        for name in dict.fromkeys(s.endpoint for s in own if s.budget is not None)
        if name != NO_ENDPOINT and len(line := best_by_budget(own, name)) > 1
    }
    if not found:
        return None
    whole = _transfer_set_size(own) or max(max(line) for line in found.values())
    base = _baseline(own, whole=whole)
    lines = [Line(name, line, _swatch(number)) for number, (name, line) in enumerate(found.items())]
    if base:
        lines.append(Line(_BASELINE, base, _swatch(None)))
    queries = [count for line in lines for count in line.points]
    across = Scale(math.log10(min(queries)) - 0.05, math.log10(max(queries)) + 0.05)
    panels = (
        _panel(lines, across, "accuracy, %", lambda s: s.accuracy_mean, errors=True),
        _panel(lines[: len(found)], across, "agreement, %", lambda s: s.agreement_mean),
    )
    parts = [
        f"{line.name} at {count:,} queries: {percent(s.accuracy_mean)} % by {s.attack}"
        for line in lines[: len(found)]
        for count, s in line.points.items()
    ]
    parts += [
        f"no API on {images:,} images: {percent(s.accuracy_mean)} %" for images, s in base.items()
    ]
    text = f"Accuracy of the student {student} over queries. {'; '.join(parts)}."
    return CostCurve(student, panels, tuple(lines), text)


def best_by_budget(summaries: Sequence[Summary], endpoint: str) -> dict[int, Summary]:
    """Return the best attack at each number of queries, fewest first.

    It is chosen as the best attack on all images is: on the seeds that choose, if there are any.
    """
    best: dict[int, Summary] = {}
    for s in candidates(summaries):
        if s.endpoint != endpoint:
            continue
        queries = s.queries or s.budget  # two accounts query every image twice
        if not queries:
            continue
        kept = best.get(queries)
        if kept is None or choice(s) > choice(kept):
            best[queries] = s
    return dict(sorted(best.items()))


def _transfer_set_size(summaries: Sequence[Summary]) -> int | None:
    """Return the size of the transfer set, from an attack that was also run on fewer images."""
    per_image = {
        (s.endpoint, s.attack): s.queries / s.budget for s in summaries if s.budget and s.queries
    }
    return next(
        (
            round(s.queries / per_image[s.endpoint, s.attack])
            for s in summaries
            if s.budget is None and s.queries and (s.endpoint, s.attack) in per_image
        ),
        None,
    )


def _baseline(summaries: Sequence[Summary], *, whole: int) -> dict[int, Summary]:
    """Return the baselines by number of images.

    whole: images of the whole transfer set.
    """
    found = {
        whole if s.budget is None else s.budget: s
        for s in summaries
        if s.endpoint == NO_ENDPOINT and s.accuracy_mean is not None
    }
    return dict(sorted(found.items()))


def _panel(
    lines: Sequence[Line],
    across: Scale,
    title: str,
    measure: Callable[[Summary], float | None],
    *,
    errors: bool = False,
) -> Markup:
    values = [
        edge
        for line in lines
        for s in line.points.values()
        if (value := measure(s)) is not None
        for edge in _ends(value, s, errors)
    ]
    up = scale_of(values)
    parts = [Markup('<text class="title" x="{}" y="14">{}</text>').format(_LEFT, title)]
    for tick in up.ticks():
        y = _y(up, tick)
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{:g}</text>'
            ).format(_LEFT, _WIDTH - _RIGHT, y, y, _LEFT - 6, y + 4, tick)
        )
    for count in _log_ticks(across):
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                _x(across, count), _HEIGHT - 18, f"{count:,}"
            )
        )
    parts.append(
        Markup('<text class="tick" x="{}" y="{}" text-anchor="end">queries</text>').format(
            _WIDTH - _RIGHT, _HEIGHT - 3
        )
    )
    for number, line in enumerate(lines):
        parts.append(_drawn(line, number, across, up, measure, errors))
    return Markup('<svg viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(
        _WIDTH, _HEIGHT, Markup("").join(parts)
    )


def _drawn(
    line: Line,
    number: int,
    across: Scale,
    up: Scale,
    measure: Callable[[Summary], float | None],
    errors: bool,
) -> Markup:
    """Draw one line with its marks and two standard errors of the mean."""
    places = [
        (_x(across, count), value, s)
        for count, s in line.points.items()
        if (value := measure(s)) is not None
    ]
    name = "base" if line.name == _BASELINE else f"line{number % _COLOURS + 1}"
    route = " ".join(f"{x:.1f},{_y(up, value):.1f}" for x, value, _ in places)
    parts = [Markup('<polyline class="{}" points="{}"/>').format(name, route)]
    for x, value, s in places:
        low, high = _ends(value, s, errors)
        parts.append(
            Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
                name, x, x, _y(up, low), _y(up, high)
            )
        )
        if name != "base":
            parts.append(
                Markup('<path class="{}" transform="translate({:.1f} {:.1f})" d="{}"/>').format(
                    name, x, _y(up, value), _MARKS[number % len(_MARKS)]
                )
            )
    return Markup("").join(parts)


def _ends(value: float, s: Summary, errors: bool) -> tuple[float, float]:
    reach = 2 * (s.accuracy_spread or 0.0) / math.sqrt(s.n) if errors else 0.0
    return value - reach, value + reach


def _swatch(number: int | None) -> Markup:
    """Draw a line's colour and mark for the legend; None for the baseline."""
    if number is None:
        return Markup(
            '<svg class="swatch" width="26" height="12" viewBox="-13 -6 26 12" aria-hidden="true">'
            '<polyline class="base" points="-12,0 12,0"/></svg>'
        )
    name = f"line{number % _COLOURS + 1}"
    return Markup(
        '<svg class="swatch" width="26" height="12" viewBox="-13 -6 26 12" aria-hidden="true">'
        '<polyline class="{}" points="-12,0 12,0"/><path class="{}" d="{}"/></svg>'
    ).format(name, name, _MARKS[number % len(_MARKS)])


def _log_ticks(across: Scale) -> list[int]:
    """Return at most four round numbers of queries within the axis, and at least one if any."""
    least, most = 10**across.low, 10**across.high
    choices = []
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [
            factor * 10**power
            for power in range(int(across.low), int(across.high) + 1)
            for factor in factors
            if least <= factor * 10**power <= most
        ]
        choices.append(found)
        if 2 <= len(found) <= 4:
            return found
    return max((found for found in choices if len(found) <= 4), key=len)


def _x(across: Scale, count: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * across.place(math.log10(count)) / 100


def _y(up: Scale, value: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * up.place(value) / 100
