"""The figures in cells: values at their places, ticks that are few, and no name inside."""

import re
from typing import Any

import pytest

from stingy_attacker_eval.report.page.figures import axis_row, forest_row, gauge_row, head_row, mark
from stingy_attacker_eval.report.page.scale import Scale, scale_of


def places(figure: str, name: str) -> list[float]:
    """Return the left ends of the lines of a class, in percent."""
    return [float(x) for x in re.findall(rf'<line class="{name}" x1="([\d.-]+)%"', figure)]


def test_forest_row_has_mean_errors_and_both_lines() -> None:
    scale = Scale(-1.0, 3.0)
    figure = str(forest_row(scale, mean=2.0, error=0.5, labels=1.0, shape="more"))
    assert places(figure, "zero") == [25.0]
    assert places(figure, "labels") == [50.0]
    assert places(figure, "whisker more") == [50.0]
    assert 'x2="100.00%"' in figure
    assert '<svg x="75.00%"' in figure


def test_row_without_an_error_has_no_whisker() -> None:
    figure = forest_row(Scale(0.0, 1.0), mean=0.5, error=None, labels=None, shape="unclear")
    assert "whisker" not in figure
    assert 'class="labels"' not in figure


def test_gauge_fills_the_share_of_the_track() -> None:
    options: dict[str, Any] = {"share": 50.0, "error": 10.0, "labels": 20.0, "shape": "same"}
    figure = gauge_row(Scale(0.0, 200.0), **options, is_measured=True)
    assert '<rect class="track" x="0.00%" width="50.00%"' in figure
    assert '<rect class="fill more" x="0.00%" width="25.00%"' in figure
    quiet = gauge_row(Scale(0.0, 200.0), **options, is_measured=False)
    assert '<rect class="fill unclear"' in quiet


def test_shapes_differ_without_their_colours() -> None:
    paths = {re.findall(r'd="([^"]+)"', mark(shape))[0] for shape in ("more", "same", "unclear")}
    assert len(paths) == 3


@pytest.mark.parametrize("values", [(0.0, 2.9), (-0.01, 0.02), (-25.0, 85.6), (0.0, 1e-6), (3.0,)])
def test_axis_has_two_to_four_ticks_within_it(values: tuple[float, ...]) -> None:
    scale = scale_of(values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 4 or len(values) == 1
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    texts = re.findall(r">([^<]+)</text>", axis_row(scale))
    assert len(texts) == len(set(texts)) == len(ticks)


def test_names_of_lines_are_on_lines_of_their_own() -> None:
    head = head_row(Scale(0.0, 4.0), ((0.0, "zero", "no API"), (0.1, "labels", "labels alone")))
    heights = re.findall(r'<text class="\w+" x="[\d.]+%" y="(\d+)"', head)
    assert len(set(heights)) == 2
