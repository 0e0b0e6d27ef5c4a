"""The built site in Chromium, from files: `make test-docs` builds it before."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from browser import SCHEMES, WIDTHS, find_violations, record_requests

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SITE = Path(__file__).parents[2] / ".docs" / "site"
PAGES = ("index.html", "serve.html", "explorer.html", "reference/http.html")
# Swagger UI and the reports of audits are programs of their own.
FOREIGN = ("swagger", "attacker_eval", "_static")
needs_site = pytest.mark.skipif(not (SITE / "index.html").exists(), reason="needs: make docs")
pytestmark = needs_site


class Links(HTMLParser):
    """The ids of a page, its links, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe", "source") and "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(found["href"])


@pytest.fixture(scope="module")
def parsed() -> dict[Path, Links]:
    return {path: Links(path) for path in SITE.rglob("*.html")}


def own_pages(parsed: dict[Path, Links]) -> Iterator[tuple[Path, Links]]:
    for path, links in parsed.items():
        if path.relative_to(SITE).parts[0] not in FOREIGN or path.name == "index.html":
            yield path, links


def test_every_link_of_the_site_has_a_page_and_an_anchor(parsed: dict[Path, Links]) -> None:
    count, broken = 0, []
    for path, links in own_pages(parsed):
        for href in links.links:
            parts = urlsplit(href)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            missing = not target.is_file()
            if not missing and parts.fragment and target.suffix == ".html":
                missing = unquote(parts.fragment) not in parsed[target].ids
            if missing:
                broken.append(f"{path.relative_to(SITE)}: {href}")
            count += 1
    assert count > 1000
    assert not broken, "\n".join(broken)


def test_no_page_loads_anything_from_another_host(parsed: dict[Path, Links]) -> None:
    for path, links in parsed.items():
        for loaded in links.loads:
            assert not urlsplit(loaded).netloc, f"{path}: {loaded}"
            assert urlsplit(loaded).scheme in ("", "data"), f"{path}: {loaded}"
    for style in SITE.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", text), style


def test_site_has_every_kind_of_page() -> None:
    for name in (
        *PAGES,
        "notebooks/serve_and_query.html",
        "notebooks/audit_your_data.html",
        "reference/grpc.html",
        "reference/stingy_clients.html",
        "reference/stingy_protection.html",
        "reference/stingy_server.html",
        "reference/stingy_attacker_eval.html",
        "swagger/index.html",
        "swagger/LICENSE",
        "genindex.html",
        "search.html",
    ):
        assert (SITE / name).is_file(), name


def test_notebooks_show_their_outputs() -> None:
    text = (SITE / "notebooks" / "serve_and_query.html").read_text(encoding="utf-8")
    assert "listening on" in text
    assert re.search(r'<img[^>]+src="\.\./_images/serve_and_query_', text)


def test_swagger_page_has_the_exported_document() -> None:
    script = (SITE / "swagger" / "openapi.js").read_text(encoding="utf-8")
    document = json.loads(script.removeprefix("const OPENAPI = ").rstrip().removesuffix(";"))
    assert document == json.loads((SITE / "reference" / "openapi.json").read_text())


@pytest.fixture
def opened(browser: "Browser") -> Iterator[Any]:
    """Return a function that opens a page of the site from its file."""
    contexts = []

    def open_page(name: str, *, width: int = 1440, scheme: Any = "light") -> "Page":
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.goto((SITE / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page_has_no_violation_and_is_not_too_wide(
    opened: Any, name: str, width: int, scheme: str
) -> None:
    page = opened(name, width=width, scheme=scheme)
    assert find_violations(page) == []
    widest = page.evaluate("document.documentElement.scrollWidth")
    assert widest <= width


@pytest.mark.browser
def test_explorer_shows_every_column_at_1440(opened: Any) -> None:
    boxes = opened("explorer.html").locator(".explorer-scroll")
    assert boxes.count() == 3
    widths = boxes.evaluate_all("all => all.map(box => [box.scrollWidth, box.clientWidth])")
    assert all(content <= box for content, box in widths), widths


@pytest.mark.browser
def test_explorer_filters_its_rows(opened: Any) -> None:
    page = opened("explorer.html")
    explorer = page.locator(".explorer").first
    rows = explorer.locator("tbody tr:visible")
    assert rows.count() == 11
    explorer.locator("[name=safe]").check()
    safe = rows.count()
    assert 0 < safe < 11
    shares = [float(row.get_attribute("data-first5") or 0) for row in rows.all()]
    explorer.locator("[name=first5]").fill(str(int(max(shares))))
    assert 0 < rows.count() <= safe
    assert "policies fit" in explorer.locator(".explorer-answer").inner_text()
    explorer.locator("[name=first5]").fill("100")
    assert rows.count() == 0
    assert explorer.locator(".explorer-answer").inner_text().startswith("0 of 11")


@pytest.mark.browser
def test_search_finds_a_word_without_a_network(opened: Any) -> None:
    page = opened("search.html")
    requests = record_requests(page)
    page.goto((SITE / "search.html").as_uri() + "?q=pepper")
    page.wait_for_selector("ul.search li a")
    assert page.locator("ul.search li").count() > 2
    assert all(request.startswith(("file:", "data:")) for request in requests)


@pytest.mark.browser
def test_swagger_ui_shows_the_routes_and_tries_none(opened: Any) -> None:
    page = opened("swagger/index.html")
    page.wait_for_selector(".opblock")
    assert page.locator(".opblock").count() > 25
    page.locator(".opblock").first.click()
    assert page.get_by_text("Try it out").count() == 0
