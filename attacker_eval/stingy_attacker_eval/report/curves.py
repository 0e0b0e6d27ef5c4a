"""The report's other charts: accuracy over the query budget, and the frontier of policies."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stingy_attacker_eval.report.bar_chart import GRID, INK, LINES, MUTED, inline
from stingy_attacker_eval.report.formatting import percent, signed
from stingy_attacker_eval.report.frontier import Point
from stingy_attacker_eval.results import NO_ENDPOINT, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vPX*"
_PANELS = (
    ("top1", "top-1, %"),
    ("top5", "among the first five, %"),
    ("ece", "calibration error (ECE), points"),
    ("answer_bytes", "bytes an answer"),
)


def letters(count: int) -> tuple[str, ...]:
    """Return the names of points in the chart and in its table: A, B, ... Z, A2, B2."""
    rounds = ((chr(65 + number % 26), number // 26 + 1) for number in range(count))
    return tuple(letter if turn == 1 else f"{letter}{turn}" for letter, turn in rounds)


def draw_frontier(points: Sequence[Point]) -> str:
    """Draw the best attack's uplift over each measure of utility.

    Each policy is a point with its own letter.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    panels = [
        (name, label)
        for name, label in _PANELS
        if any(getattr(point.utility, name) is not None for point in points)
    ]
    figure = Figure(figsize=(8.4, 3.1 * ((len(panels) + 1) // 2)))
    FigureCanvasSVG(figure)
    for place, (name, label) in enumerate(panels, start=1):
        axes = figure.add_subplot((len(panels) + 1) // 2, 2, place)
        _scatter(axes, points, name)
        axes.axhline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.margins(x=0.12, y=0.12)
        axes.set_xlabel(label, color=INK)
        axes.set_ylabel("best uplift, points" if place % 2 else "", color=INK)
        if name == "answer_bytes":
            _set_log_scale(axes)
        _hide_frame(axes)
    figure.tight_layout()
    parts = [
        f"{letter} {point.endpoint}: best uplift {signed(point.best.uplift_mean)} points, "
        f"top-1 {percent(point.utility.top1)} %, first five {percent(point.utility.top5)} %"
        for letter, point in zip(letters(len(points)), points, strict=True)
    ]
    return inline(figure, "Best uplift over what clients keep. " + "; ".join(parts) + ".")


def draw_budgets(summaries: Sequence[Summary], *, student: str) -> str | None:
    """Draw accuracy and agreement of each endpoint's best attack at each budget.

    Only attacks that were run at several budgets count. The whole transfer set is the largest
    budget. Returns None if there is no such attack.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    tried = {s.attack for s in summaries if s.budget is not None}
    own = [
        s
        for s in summaries
        if s.student == student
        and s.n
        and (s.endpoint == NO_ENDPOINT or s.attack in tried)
        and not s.white_box
    ]
    lines = {
        name: line
        for name in dict.fromkeys(s.endpoint for s in own if s.budget is not None)
        if name != NO_ENDPOINT and len(line := best_by_budget(own, name)) > 1
    }
    if not lines:
        return None
    figure = Figure(figsize=(8.4, 3.6))
    FigureCanvasSVG(figure)
    base = _baseline(
        own, whole=_transfer_set_size(own) or max(max(line) for line in lines.values())
    )
    for place, (kind, label) in enumerate(
        (("accuracy_mean", "accuracy, %"), ("agreement_mean", "agreement, %")), start=1
    ):
        axes = figure.add_subplot(1, 2, place)
        for number, (name, line) in enumerate(lines.items()):
            axes.errorbar(
                list(line),
                [getattr(s, kind) for s in line.values()],
                yerr=[s.accuracy_spread or 0.0 for s in line.values()] if place == 1 else None,
                color=LINES[number % len(LINES)],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=5,
                linewidth=1.6,
                label=name,
            )
        if place == 1 and base:
            axes.plot(
                list(base),
                [s.accuracy_mean or 0.0 for s in base.values()],
                color=INK,
                linewidth=1,
                linestyle=(0, (4, 3)),
                label="no API, as many images",
            )
        _set_log_scale(axes)
        axes.set_xlabel("images asked about", color=INK)
        axes.set_ylabel(f"{label} ({student})", color=INK)
        _hide_frame(axes)
        if place == 1:
            axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    figure.tight_layout()
    parts = [
        f"{name} at {queries} queries: {percent(s.accuracy_mean)} % by {s.attack}"
        for name, line in lines.items()
        for queries, s in line.items()
    ]
    parts += [
        f"no API on {images} images: {percent(s.accuracy_mean)} %" for images, s in base.items()
    ]
    return inline(
        figure, f"Accuracy of the student {student} over queries. " + "; ".join(parts) + "."
    )


def best_by_budget(summaries: Sequence[Summary], endpoint: str) -> dict[int, Summary]:
    """Return the best attack at each number of queries, fewest first."""
    best: dict[int, Summary] = {}
    for s in summaries:
        if s.endpoint != endpoint or s.uplift_mean is None:
            continue
        queries = s.queries or s.budget  # two accounts query every image twice
        if not queries:
            continue
        kept = best.get(queries)
        if kept is None or s.uplift_mean > (kept.uplift_mean or 0.0):
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


def _scatter(axes: "Axes", points: Sequence[Point], name: str) -> None:
    """Draw a dot and a letter for each point.

    Letters of neighbours are left and right in turn, so that they do not overlap.
    """
    shown = [
        (getattr(point.utility, name), point.best.uplift_mean or 0.0, letter, point)
        for letter, point in zip(letters(len(points)), points, strict=True)
        if getattr(point.utility, name) is not None
    ]
    for turn, (kept, uplift, letter, point) in enumerate(sorted(shown, key=lambda item: item[:3])):
        spread = point.best.uplift_spread
        axes.errorbar(
            [kept],
            [uplift],
            yerr=None if spread is None else [spread],
            fmt="o",
            markersize=5,
            color=INK,
            ecolor=MUTED,
            elinewidth=1,
        )
        axes.annotate(
            letter,
            (kept, uplift),
            xytext=(-6 if turn % 2 else 6, 0),
            textcoords="offset points",
            ha="right" if turn % 2 else "left",
            va="center",
            color=INK,
        )


def _set_log_scale(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    least, most = axes.get_xlim()
    wide = most > 100 * least  # more labels would overlap
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if wide else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _hide_frame(axes: "Axes") -> None:
    axes.tick_params(colors=INK, which="both", length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
