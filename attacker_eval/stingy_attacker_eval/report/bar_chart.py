"""The report's chart as inline SVG. Bars start at the no-API baseline, so length is uplift."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stingy_attacker_eval.report.formatting import endpoint_title, signed
from stingy_attacker_eval.results import NO_ENDPOINT, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholder colours become CSS variables, so that the page can switch between light and dark.
_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--grid)",
    "#040404": "var(--gain)",
    "#050505": "var(--loss)",
    **{f"#0{number}0a0b": f"var(--line{number})" for number in range(1, 7)},
}
INK, MUTED, GRID, _GAIN, _LOSS, *LINES = _COLOURS

_LONGEST_LABEL = 32


def draw_chart(
    summaries: Sequence[Summary], teachers: dict[str, float], *, student: str, title: str
) -> str:
    """Draw one group of bars per endpoint, titled with its defence, and one bar per attack.

    Error bars are the spread over seeds.

    summaries: the attacks to draw, the baseline included.
    teachers: test accuracy in percent by endpoint.
    title: the text for readers who cannot view the chart.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    own = [summary for summary in summaries if summary.student == student]
    baseline = next(s for s in own if s.endpoint == NO_ENDPOINT)
    base = baseline.accuracy_mean or 0.0
    figure = Figure(figsize=(8.4, 0.9 + 0.36 * (len(own) + 0.6 * len(teachers))))
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    place, ticks, names = 0.0, [], []
    values = [base, *teachers.values()]
    for endpoint, teacher in teachers.items():
        group = [summary for summary in own if summary.endpoint == endpoint]
        top = place
        for summary in group:
            ticks.append(place)
            names.append(_cut_label(summary.attack))
            values += _bar(axes, summary, place, base)
            place += 1
        if group:
            axes.plot([teacher] * 2, [top - 0.45, place - 0.55], color=MUTED, linewidth=2)
            axes.annotate(
                endpoint_title(endpoint, group[0].defence),
                (0, top - 0.85),
                xycoords=("axes fraction", "data"),
                color=INK,
                weight="bold",
                va="center",
            )
        place += 1.1
    axes.axvline(base, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    low, high = min(values), max(values)
    margin = max(1.0, 0.06 * (high - low))
    axes.set_xlim(max(0.0, low - margin), high + margin + 0.12 * (high - low))
    axes.set_xticks([tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= 100])
    axes.set_ylim(place - 1.3, -1.4)
    axes.set_yticks(ticks, names)
    axes.set_xlabel(f"accuracy of the student {student} on the test images, %", color=INK)
    axes.tick_params(colors=INK, length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.tight_layout()
    return inline(figure, title)


def _bar(axes: "Axes", summary: Summary, place: float, base: float) -> list[float]:
    """Draw one bar, its spread and its number. Return the values that the axis must cover."""
    if summary.accuracy_mean is None or summary.uplift_mean is None:
        axes.annotate("broken attack", (base, place), color=INK, va="center")
        return []
    spread = summary.accuracy_spread or 0.0
    mean, uplift = summary.accuracy_mean, summary.uplift_mean
    axes.barh(
        place,
        uplift,
        left=base,
        height=0.66,
        color=_GAIN if uplift > 0 else _LOSS,
        alpha=0.45 if summary.white_box else None,
        xerr=spread,
        error_kw={"ecolor": INK, "capsize": 3, "linewidth": 1},
    )
    end = max(mean + spread, base)
    axes.annotate(
        signed(uplift),
        (end, place),
        xytext=(5, 0),
        textcoords="offset points",
        color=INK,
        va="center",
    )
    return [mean - spread, end]


def _cut_label(label: str) -> str:
    """Cut an attack's label if it would take the space of the bars; the table has all of it."""
    if len(label) <= _LONGEST_LABEL:
        return label
    return label[: _LONGEST_LABEL - 1].rstrip(",") + "\N{HORIZONTAL ELLIPSIS}"


def inline(figure: "Figure", title: str) -> str:
    """Return the figure as SVG for an HTML page, in the page's font and colours.

    The SVG has no prologue and no namespace addresses.
    """
    import matplotlib

    content = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stingy"}):
        figure.savefig(content, format="svg", transparent=True, metadata=metadata)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"font: (\w+ )?([\d.]+px) [^;\"]*", r"font: \1\2 system-ui, sans-serif", svg)
    for placeholder, colour in _COLOURS.items():
        svg = svg.replace(placeholder, colour)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
