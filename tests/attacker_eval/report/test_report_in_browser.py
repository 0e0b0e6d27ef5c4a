"""The report in a real browser: read, sorted, filtered, printed, at both widths and schemes."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from audit_results import audit_of, rows_of
from browser import (
    SCHEMES,
    WIDTHS,
    find_violations,
    record_requests,
)
from page_checks import A4_WIDTH, find_cut_tables, find_overlapping_texts, find_wide, pdf_texts
from stingy_attacker_eval.report.comparison import compare_audits
from stingy_attacker_eval.report.html import read_audit, write_comparison, write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RESULTS = Path(__file__).parents[3] / "attacker_eval" / "results"
COMMITTED = ("frontier_cifar10_32", "frontier_tin100_32", "attackers_digits")
MADE = ("curve", "hostile", "quiet", "compared")
MINUS = "\N{MINUS SIGN}"

pytestmark = pytest.mark.browser

Scheme = Literal["dark", "light"]
NAMES = ("<b>bold</b><script>document.title = 'run'</script>", "\u202ereversed", "x" * 64)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Draw all pages once."""
    found = {}
    for name in COMMITTED:
        folder = tmp_path_factory.mktemp(name)
        (folder / "report.json").write_bytes((RESULTS / name / "report.json").read_bytes())
        found[name] = write_report(folder)
    made: dict[str, dict[str, dict[str, float]]] = {
        "curve": {"open": {"label_only": 0.1, "soft_label": 5.0}},
        "hostile": {name: {"label_only": 0.1, f"a[{name}]": 3.0} for name in NAMES},
        "quiet": {"open": {"label_only": 0.1, "soft_label": 0.3}},
    }
    for name, uplifts in made.items():
        folder = tmp_path_factory.mktemp(name)
        rows = rows_of(uplifts)
        if name == "curve":
            rows += [
                r.model_copy(update={"budget": n, "accuracy": r.accuracy - 1000 / n})
                for r in rows
                for n in (100, 500)
            ]
            rows = [
                r.model_copy(update={"queries": r.budget}) if r.budget and r.queries else r
                for r in rows
            ]
        audit_of(folder, rows, config={"title": " ".join(uplifts)})
        found[name] = write_report(folder)
    page = tmp_path_factory.mktemp("compared") / "compare.html"
    before, after = (read_audit(RESULTS / n) for n in ("reduced_cifar10", "frontier_cifar10_32"))
    write_comparison(compare_audits(before, after), page)
    return {**found, "compared": page}


@pytest.fixture
def opened(browser: "Browser") -> Iterator["Opener"]:
    """Return a function that opens a page, and close everything after the test."""
    opener = Opener(browser)
    yield opener
    opener.close()


class Opener:
    """The browser contexts of one test."""

    def __init__(self, browser: "Browser") -> None:
        self._browser = browser
        self._contexts: list[Any] = []

    def __call__(
        self,
        path: Path,
        *,
        width: int = 1440,
        scheme: Scheme = "light",
        **options: Any,
    ) -> "Page":
        context = self._browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            **options,
        )
        self._contexts.append(context)
        page: Page = context.new_page()
        page.goto(path.as_uri())
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


def first_of(folder: Path) -> dict[str, Any]:
    """Return the report's document, next to its page."""
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        *itertools.product(COMMITTED, WIDTHS, SCHEMES),
        *((name, 390, "dark") for name in MADE),
    ],
)
def test_page_breaks_no_rule_of_axe(
    opened: Opener, pages: dict[str, Path], name: str, width: int, scheme: Scheme
) -> None:
    assert find_violations(opened(pages[name], width=width, scheme=scheme)) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [*COMMITTED, *MADE])
def test_nothing_is_wider_than_its_box(
    opened: Opener, pages: dict[str, Path], name: str, width: int
) -> None:
    page = opened(pages[name], width=width)
    assert find_wide(page) == []
    assert find_overlapping_texts(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = find_cut_tables(page)
    assert [line for line in cut if width == 1440 or line.startswith("policies")] == []


@pytest.mark.parametrize("name", [*COMMITTED, *MADE])
def test_nothing_is_cut_in_print(opened: Opener, pages: dict[str, Path], name: str) -> None:
    page = opened(pages[name], width=A4_WIDTH, scheme="dark")
    page.emulate_media(media="print")
    assert find_wide(page) == []
    assert find_overlapping_texts(page) == []
    assert find_cut_tables(page) == []
    folded = "all => all.filter(box => box.scrollHeight > box.clientHeight + 1).length"
    assert page.locator(".scroll").evaluate_all(folded) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= A4_WIDTH
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = page.locator("td.minor").evaluate_all("cells => cells.filter(c => !c.offsetWidth)")
    assert hidden == []


@pytest.mark.parametrize("name", COMMITTED)
def test_print_has_every_uplift_and_heads_on_each_sheet(
    opened: Opener, pages: dict[str, Path], name: str
) -> None:
    sheets = [re.sub(r"\s+", "", text) for text in pdf_texts(opened(pages[name]))]
    (student,) = first_of(pages[name].parent)["config"]["students"]
    tables = [text.replace(student, "") for text in sheets if student in text]
    assert len(tables) > 4
    assert all("student" in text for text in tables)  # a column's head
    printed = "".join(sheets)
    summaries = first_of(pages[name].parent)["summary"]
    uplifts = [s["uplift_mean"] for s in summaries if s["endpoint"] != "none"]
    assert len(uplifts) > 30
    for uplift in uplifts:
        assert f"{round(uplift, 1) + 0.0:+.1f}±".replace("-", MINUS) in printed


@pytest.mark.parametrize("name", [*COMMITTED, *MADE])
def test_E7_page_requests_nothing_in_a_browser(
    browser: "Browser", pages: dict[str, Path], name: str
) -> None:
    page = browser.new_page()
    requests = record_requests(page)
    page.goto(pages[name].as_uri(), wait_until="networkidle")
    page.close()
    assert requests == [pages[name].as_uri()]


@pytest.mark.parametrize("name", COMMITTED)
def test_click_on_uplift_sorts_the_largest_first(
    opened: Opener, pages: dict[str, Path], name: str
) -> None:
    page = opened(pages[name])
    for table in ("policies", "attacks"):
        button = page.locator(f"#{table}-table thead button", has_text="uplift")
        button.click()
        place = page.locator(f"#{table}-table thead th[aria-sort]").evaluate("h => h.cellIndex")
        cells = page.locator(f"#{table}-table tbody tr").evaluate_all(
            f"rows => rows.map(row => row.cells[{place}].dataset.value)"
        )
        values = [float(cell) for cell in cells if cell is not None]
        assert values == sorted(values, reverse=True)
        assert cells[: len(values)] == [c for c in cells if c is not None]  # the empty ones last
        button.click()
        assert page.locator(f"#{table}-table thead th[aria-sort=ascending]").count() == 1


def test_filter_keeps_the_rows_with_every_word(opened: Opener, pages: dict[str, Path]) -> None:
    page = opened(pages["frontier_tin100_32"])
    document = first_of(pages["frontier_tin100_32"].parent)
    whole = len(document["summary"])
    tools = page.locator("[data-filters=attacks-table]")
    assert tools.locator("output").inner_text() == f"{whole} of {whole} rows"
    tools.locator("input").fill("LABEL two_labels")
    shown = page.locator("#attacks-table tbody tr:visible")
    texts = shown.all_inner_texts()
    assert texts
    assert all("two_labels" in text for text in texts)
    assert tools.locator("output").inner_text() == f"{len(texts)} of {whole} rows"
    assert page.locator("#seeds-table tbody tr:visible").count() == len(document["rows"])


@pytest.mark.parametrize("name", COMMITTED)
def test_numbers_of_the_figure_equal_the_report(
    opened: Opener, pages: dict[str, Path], name: str
) -> None:
    page = opened(pages[name])
    document = first_of(pages[name].parent)
    uplifts = {
        (s.get("attacker", "owner"), s["endpoint"], s["attack"]): s["uplift_mean"]
        for s in document["summary"]
    }
    head = page.locator("#policies-table thead th").evaluate_all("h => h.map(x => x.innerText)")
    place = head.index("uplift")
    rows = page.locator("#policies-table tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(c => [c.innerText, c.dataset.value]))"
    )
    owners = [a["name"] for a in document["config"].get("attackers", [{"name": "owner"}])]
    assert len(rows) == len(document["endpoints"]) * len(owners)
    for row in rows:
        owner = row[0][0] if head[0] == "attacker" else "owner"
        endpoint = row[head.index("endpoint")][0].split("\n")[0].split(" ")[0]
        attack = row[-1][0]
        value = uplifts[owner, endpoint, attack]
        assert float(row[place][1]) == value
        assert row[place][0].startswith(f"{round(value, 1) + 0.0:+.1f}".replace("-", MINUS))


def test_E7_headline_claims_no_gain_where_it_is_unclear(
    opened: Opener, pages: dict[str, Path]
) -> None:
    page = opened(pages["quiet"])
    tile = page.locator(".tile", has_text="Leaks").first
    assert "nothing measurable (±" in tile.inner_text()
    assert "quiet" in (tile.get_attribute("class") or "")
    assert "of the gap to your model" not in page.locator(".tiles").inner_text()


def test_page_works_without_its_script(opened: Opener, pages: dict[str, Path]) -> None:
    page = opened(pages["frontier_cifar10_32"], java_script_enabled=False)
    assert "of the gap to your model" in page.locator(".tiles").inner_text()
    rows = first_of(pages["frontier_cifar10_32"].parent)["rows"]
    assert page.locator("#seeds-table tbody tr").count() == len(rows)
    assert page.locator("thead button, .tools input").count() == 0


def test_E7_policy_of_the_page_runs_no_other_script(opened: Opener, pages: dict[str, Path]) -> None:
    page = opened(pages["hostile"])
    assert page.title().startswith("Stingy audit")
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'document.title = 1';"
        " document.body.append(s); }"
    )
    assert page.title().startswith("Stingy audit")


def test_verdict_is_above_the_fold(opened: Opener, pages: dict[str, Path]) -> None:
    page = opened(pages["frontier_tin100_32"])
    box = page.locator(".tiles").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 900
    figure = page.locator("#policies-table").bounding_box()
    assert figure is not None
    assert figure["y"] < 900
