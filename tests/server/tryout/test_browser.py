"""The page of `stingy try` in Chromium, from a real command, beside a real server of the bundle."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from browser import SCHEMES, WIDTHS, find_overflowing, find_violations, record_requests
from serving import (
    STINGY,
    make_bundle,
    make_key,
    png,
    random_images,
    served,
    server_environment,
)
from stingy_protection import build_policy
from try_pages import report_document, trying

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

FINGERPRINT = build_policy("stingy", num_classes=10).fingerprint
SETTINGS = '[tiers.partner]\nclasses = 1\ndecimals = 1\n[tiers.order]\nscores = "rank"\n'
OUT = "#rows tr td:nth-child(3).out"


@dataclass(frozen=True)
class Opened:
    """A browser's context that has opened the page, and the files that a person drops on it."""

    context: "BrowserContext"
    url: str
    token_url: str
    folder: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a bundle, an audit of it, settings with tiers, and images."""
    folder = tmp_path_factory.mktemp("try")
    make_bundle(folder / "bundle")
    (folder / "stingy.toml").write_text(SETTINGS)
    (folder / "audit").mkdir()
    report = report_document(fingerprint=FINGERPRINT)
    (folder / "audit" / "report.json").write_text(json.dumps(report))
    (folder / "digit.png").write_bytes(png(random_images(1)[0]))
    (folder / "corrupt.png").write_bytes(png(random_images(1)[0])[:-9])
    for place, image in enumerate(random_images(12, seed=1)):
        target = folder / "images" / ("elsewhere" if place == 11 else f"class {place % 3}")
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{place}.png").write_bytes(png(image))
    (folder / "images" / "class 0" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def session(files: Path, browser: "Browser") -> Iterator[Opened]:
    """Start the command, and open its address in a context of its own."""
    with trying("bundle", "--audit", "audit", cwd=files) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#model:has-text('digits 1')")
        page.close()
        yield Opened(context, address.partition("?")[0], address, files)
        context.close()


@pytest.fixture
def page(session: Opened) -> "Iterator[Page]":
    """Open the page anew, with its session."""
    page = session.context.new_page()
    page.goto(session.url)
    page.wait_for_selector("#model:has-text('digits 1')")
    page.wait_for_selector("body:not([aria-busy])")
    yield page
    page.close()


def drop(page: "Page", path: Path) -> None:
    with page.expect_response(lambda response: "/view" in response.url):
        page.set_input_files("#file", path)
    page.wait_for_selector("body:not([aria-busy])")


def choose(page: "Page", **values: str) -> None:
    """Set controls as a person does, and wait for what leaves."""
    for name, value in values.items():
        if page.locator(f"#{name}").evaluate("e => e.tagName") == "SELECT":
            page.select_option(f"#{name}", value)
        else:
            page.locator(f"#{name}").fill(value)
    page.wait_for_selector("body:not([aria-busy])")


def leaves(page: "Page", column: int = 3) -> dict[str, str]:
    """Return the texts of the classes that leave in a column, by their labels."""
    rows = page.locator("#rows tr").all()
    cells = [
        (row.locator("th").inner_text(), row.locator(f":scope > :nth-child({column})"))
        for row in rows
    ]
    return {
        label: cell.inner_text()
        for label, cell in cells
        if "withheld" not in (cell.get_attribute("class") or "")
    }


def predict(folder: Path, url: str, key: str, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [*STINGY, "predict", "digit.png", "--url", url, *words],
        cwd=folder,
        env=server_environment() | {"STINGY_KEY": key},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_F1_leaves_column_equals_stingy_predict(
    page: "Page", session: Opened, tmp_path: Path
) -> None:
    drop(page, session.folder / "digit.png")
    key = make_key(tmp_path / "state")
    with served(session.folder / "bundle", state=tmp_path / "state") as (url, _):
        answer = predict(session.folder, url, key, "--raw", "--json")
    expected = {each["label"]: f"{each['score']:.10g}" for each in answer["classes"]}
    assert leaves(page) == expected


def test_F1_three_classes_are_exactly_three_numbers(page: "Page", session: Opened) -> None:
    drop(page, session.folder / "digit.png")
    choose(page, n="3")
    assert page.locator(OUT).count() == 3
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", text) for text in leaves(page).values())
    withheld = page.locator("#rows td.withheld").all_inner_texts()
    assert len(withheld) > 5
    assert not any(re.search(r"\d", text) for text in withheld)
    assert page.inner_text("#text") == 'policy = "stingy:n=3"'


@pytest.mark.parametrize("tier", ["partner", "order"])
def test_F1_tier_shows_no_more_than_the_policy(page: "Page", session: Opened, tier: str) -> None:
    drop(page, session.folder / "digit.png")
    choose(page, n="4", tier=tier)
    policy, under = leaves(page), leaves(page, 4)
    assert set(under) <= set(policy)
    assert len(under) == (1 if tier == "partner" else 4)
    choose(page, tier="full")
    assert not page.locator("#rows td.tier").first.is_visible()


def test_F3_gain_is_shown_for_the_audited_setting_alone(page: "Page") -> None:
    assert page.inner_text("#audited .uplift") == "+10.0, 25 % of the gap"
    choose(page, n="3")
    assert page.locator("#audited .uplift").count() == 0
    assert "Not audited" in page.inner_text("#audited")
    choose(page, n="2", tier="partner")
    assert page.locator("#audited .uplift").count() == 1
    assert "Not audited: stingy under the tier partner" in page.inner_text("#audited")


def test_corrupt_png_shows_the_sentence_of_the_api(page: "Page", session: Opened) -> None:
    drop(page, session.folder / "digit.png")
    drop(page, session.folder / "corrupt.png")
    assert page.inner_text("#error").startswith("Expected")
    assert not page.locator("#one-scroll").is_visible()
    drop(page, session.folder / "digit.png")
    assert not page.locator("#error").is_visible()


def test_folder_shows_the_use_of_the_answers(page: "Page", session: Opened) -> None:
    page.set_input_files("#directory", session.folder / "images")
    page.wait_for_selector("#many-scroll:not([hidden])")
    page.wait_for_selector("#skipped:not([hidden])")
    assert page.inner_text("#use-caption") == "On 11 images"
    assert "1 images are in no folder of a class" in page.inner_text("#skipped")
    assert "1 images were refused, such as broken.png: Expected" in page.inner_text("#skipped")
    rows = {row.locator("th").inner_text(): row for row in page.locator("#use tr").all()}
    assert list(rows) == ["everything", "stingy", "+ tier full", "label"]
    top1 = [
        rows[name].locator("td").first.inner_text() for name in ("everything", "stingy", "label")
    ]
    assert len(set(top1)) == 1
    assert rows["stingy"].locator("td").nth(3).inner_text() == "24"


def test_F2_page_works_in_a_process_that_writes_no_file(page: "Page", session: Opened) -> None:
    # The command runs with a limit of 0 bytes a file: see `trying`.
    page.set_input_files("#directory", session.folder / "images")
    page.wait_for_selector("#many-scroll:not([hidden])")
    drop(page, session.folder / "digit.png")
    assert len(leaves(page)) == 2


def test_image_can_be_dropped_with_the_mouse(page: "Page", session: Opened) -> None:
    content = list((session.folder / "digit.png").read_bytes())
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            const options = {type: "image/png"};
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", options));
            return transfer;
        }""",
        content,
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("#hint:has-text('dropped.png')")
    page.wait_for_selector("body:not([aria-busy])")
    assert len(leaves(page)) == 2


def test_V1_address_opens_one_browser_alone(session: Opened, browser: "Browser") -> None:
    stranger = browser.new_context()
    page = stranger.new_page()
    response = page.goto(session.token_url)
    assert response is not None
    assert response.status == 401
    assert "Press Enter" in page.inner_text("body")
    (cookie,) = session.context.cookies()
    assert re.fullmatch("stingy-[0-9a-f]{16}", str(cookie.get("name")))
    assert (cookie.get("httpOnly"), cookie.get("sameSite")) == (True, "Strict")
    stranger.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_page_has_no_fault_of_access_and_no_foreign_request(
    session: Opened, width: int, scheme: Any
) -> None:
    page = session.context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    requests = record_requests(page)
    page.goto(session.url)
    page.wait_for_selector("#model:has-text('digits 1')")
    assert find_violations(page) == []
    page.set_input_files("#directory", session.folder / "images")
    page.wait_for_selector("#many-scroll:not([hidden])")
    drop(page, session.folder / "digit.png")
    choose(page, tier="partner")
    assert find_violations(page) == []
    assert find_overflowing(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert {url for url in requests if not url.startswith(session.url)} == set()
    # A refused file of the folder is a failed request, which the browser reports.
    assert [text for text in faults if "422" not in text and "415" not in text] == []
    page.close()


def test_labels_with_markup_are_text(browser: "Browser", tmp_path: Path, files: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    manifest = json.loads((bundle / "model.json").read_text())
    marked = "<img src=x onerror=document.title='run'>"
    manifest["classes"] = [f"{marked}{place}" for place in range(10)]
    (bundle / "model.json").write_text(json.dumps(manifest))
    with trying("bundle", cwd=tmp_path) as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#model:has-text('digits 1')")
        drop(page, files / "digit.png")
        assert page.locator("#rows th").first.inner_text().startswith(marked)
        assert page.locator("#rows img").count() == 0
        assert page.title() == "Stingy · try a bundle"
        page.close()
