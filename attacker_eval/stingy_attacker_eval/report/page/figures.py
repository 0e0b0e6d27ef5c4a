"""Inline SVG for the cells of a table: rows of a forest plot, gauges, bars, paired dots.

Places are percentages, so that a figure fills its column and its marks keep their form. No name is
ever written into a figure, and a page may not have style attributes.
"""

from collections.abc import Sequence

from markupsafe import Markup

from stingy_attacker_eval.report.page.scale import Scale

# The marks by shape: a disc, a square, a diamond. Each is about 11 px wide.
_PATHS = {
    "more": "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0 -11 0z",
    "same": "M-5 -5h10v10h-10z",
    "unclear": "M0 -6.5L6.5 0L0 6.5L-6.5 0z",
}
_EDGE = 14.0


def mark(shape: str, *, is_hollow: bool = False) -> Markup:
    """Draw one mark alone, for a legend or beside a word."""
    hollow = " hollow" if is_hollow else ""
    return Markup(
        '<svg class="mark" width="14" height="14" viewBox="-7 -7 14 14" aria-hidden="true">'
        '<path class="{}{}" d="{}"/></svg>'
    ).format(shape, hollow, _PATHS[shape])


def line_mark() -> Markup:
    """Draw the upright line of labels alone, for a legend."""
    return Markup(
        '<svg class="mark" width="14" height="14" viewBox="-7 -7 14 14" aria-hidden="true">'
        '<line class="labels" x1="0" x2="0" y1="-7" y2="7"/></svg>'
    )


def forest_row(
    scale: Scale, *, mean: float, error: float | None, labels: float | None, shape: str
) -> Markup:
    """Draw an uplift with two errors on both sides, between the lines of no API and of labels."""
    parts = [_grid(scale), _line(scale, 0.0, "zero")]
    if labels is not None:
        parts.append(_line(scale, labels, "labels"))
    if error is not None:
        parts.append(_whisker(scale, mean - 2 * error, mean + 2 * error, shape))
    parts.append(_dot(scale, mean, shape))
    return _cell(parts)


def gauge_row(
    scale: Scale,
    *,
    share: float,
    error: float | None,
    labels: float | None,
    shape: str,
    is_measured: bool,
) -> Markup:
    """Draw the share of the gap that was closed, out of the track from no API to the teacher.

    The bar has the colour of a leak only if the uplift was measured.
    """
    fill = "fill more" if is_measured else "fill unclear"
    parts = [_bar(scale, 0.0, 100.0, "track"), _bar(scale, 0.0, share, fill)]
    parts += [_line(scale, 0.0, "zero"), _line(scale, 100.0, "teacher")]
    if labels is not None:
        parts.append(_line(scale, labels, "labels"))
    if error is not None:
        parts.append(_whisker(scale, share - 2 * error, share + 2 * error, "plain"))
    parts.append(_dot(scale, share, shape))
    return _cell(parts)


def bar_row(scale: Scale, *, base: float, value: float) -> Markup:
    """Draw a bar from the accuracy without the API to the student's."""
    shape = "more" if value > base else "same"
    return _cell([_bar(scale, base, value, f"fill {shape}"), _line(scale, base, "zero")])


def pair_row(scale: Scale, *, before: float, after: float, shape: str) -> Markup:
    """Draw two uplifts of one endpoint, joined: hollow before, full after."""
    return _cell(
        [
            _grid(scale),
            _line(scale, 0.0, "zero"),
            _whisker(scale, before, after, shape),
            _dot(scale, before, f"{shape} hollow"),
            _dot(scale, after, shape),
        ]
    )


def head_row(scale: Scale, lines: Sequence[tuple[float, str, str]]) -> Markup:
    """Draw the names of the upright lines, one below the other so that they never overlap.

    lines: for each, its value, its class and its name.
    """
    parts = []
    for number, (value, line, name) in enumerate(lines):
        y = 13 + 15 * number
        parts += [
            Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="100%"/>').format(
                line, scale.at(value), scale.at(value), y + 4
            ),
            _text(scale, value, y, name, line),
        ]
    return _cell(parts)


def axis_row(scale: Scale, *, ticks: Sequence[float] = (), unit: str = "") -> Markup:
    """Draw the numbers of the axis, with a sign unless they have a unit.

    ticks: the values to write; empty for those of the scale.
    """
    texts = [
        Markup('<text class="tick" x="{}" y="14" text-anchor="middle">{}</text>').format(
            scale.at(tick), _tick_text(tick, scale.decimals, unit)
        )
        for tick in ticks or scale.ticks()
    ]
    return _cell(texts)


def _tick_text(value: float, decimals: int, unit: str) -> str:
    if round(value, decimals) == 0:
        return f"0{unit}"
    sign = "" if unit else "+"
    text = f"{value:{sign}.{decimals}f}{unit}"
    return text.replace("-", "\N{MINUS SIGN}")


def _text(scale: Scale, value: float, y: int, text: str, line: str) -> Markup:
    place = scale.place(value)
    anchor = "start" if place < _EDGE else "end" if place > 100 - _EDGE else "middle"
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        line, scale.at(value), y, anchor, text
    )


def _cell(parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="figure" width="100%" height="100%" aria-hidden="true">{}</svg>'
    ).format(Markup("").join(parts))


def _grid(scale: Scale) -> Markup:
    return Markup("").join(_line(scale, tick, "grid") for tick in scale.ticks())


def _line(scale: Scale, value: float, name: str) -> Markup:
    place = scale.at(value)
    return Markup('<line class="{}" x1="{}" x2="{}" y1="0" y2="100%"/>').format(name, place, place)


def _whisker(scale: Scale, low: float, high: float, shape: str) -> Markup:
    return Markup('<line class="whisker {}" x1="{}" x2="{}" y1="50%" y2="50%"/>').format(
        shape, scale.at(low), scale.at(high)
    )


def _bar(scale: Scale, start: float, end: float, name: str) -> Markup:
    low, high = sorted((scale.place(start), scale.place(end)))
    return Markup('<rect class="{}" x="{:.2f}%" width="{:.2f}%" y="25%" height="50%"/>').format(
        name, low, high - low
    )


def _dot(scale: Scale, value: float, shape: str) -> Markup:
    path = _PATHS[shape.partition(" ")[0]]
    return Markup('<svg x="{}" y="50%" overflow="visible"><path class="{}" d="{}"/></svg>').format(
        scale.at(value), shape, path
    )
