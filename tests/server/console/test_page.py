"""The console's page in Chromium: before a real server, and on states that are large or odd."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browser import SCHEMES, WIDTHS, find_overflowing, find_violations, record_requests
from console_pages import add_entries, entry, make_state
from console_process import ConsoleProcess, console_process, make_large_state, query
from serving import make_bundle, make_key, served
from stingy_server import Database
from stingy_server.detection.key_profiles import KeyProfileStore, Observation
from stingy_server.store.deployments import Deployments, Report
from stingy_server.store.ledger import Ledger
from watched_images import attack, customer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
MARKUP = '<img src=x onerror="document.title=1">'
RIGHT_TO_LEFT = "א‮evil"
LONG = "w" * 64
TEXT = "stingy_"  # begins the text of every key


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert faults == []


@pytest.fixture(scope="module")
def odd_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a state of odd names, whose model shares its weights with another."""
    state = tmp_path_factory.mktemp("odd") / "state"
    made = make_state(state, "alice", MARKUP, LONG)
    add_entries(state, [entry(key.id) for key, _ in made])
    with closing(Database(state)) as database:
        # Too few distances for a normality, and every class as often as the others.
        every_class = {"digits": (10, dict.fromkeys(range(10), 7))}
        observed = Observation(images=70, bits=2240.0, novel=70, classes=every_class)
        for key, _ in made:
            KeyProfileStore(database).add(key.id, observed, alarm=0.9, ladder=[])
        # `Keys.create` refuses marks of direction; an older state may have one.
        database.execute("UPDATE keys SET name = ? WHERE name = 'alice'", (RIGHT_TO_LEFT,))
        warning = "digits 1, normal 1 serve the same weights: together they are as open as normal 1"
        report = Report("p", "digits", "1", "top 2 of 10 classes", None, None, 4e9, warning)
        Deployments(database).report("p", [report])
    return state


@pytest.fixture(scope="module")
def odd_console(odd_state: Path) -> Iterator[ConsoleProcess]:
    with console_process(odd_state, "--write") as console:
        yield console


def open_page(page: "Page", console: ConsoleProcess) -> None:
    """Open the page and wait for its first numbers."""
    page.goto(console.address())
    page.wait_for_url(re.compile(r"/$"))
    page.wait_for_selector("#age:not(:empty)")


def confirm(page: "Page") -> None:
    page.click("#dialog-do")


def test_near_duplicates_give_a_red_row_that_a_release_ends(page: "Page", tmp_path: Path) -> None:
    state = tmp_path / "state"
    key, honest = make_key(state), make_key(state)
    watch = {"STINGY_WATCH": '{"then": "labels"}'}
    bundle = make_bundle(tmp_path / "b", policy="stingy:n=2")
    with served(bundle, state=state, **watch) as (url, _), console_process(state, "--write") as run:
        open_page(page, run)
        assert page.locator("#server").inner_text() == "ready · 1 model · 1 process"
        assert query(url, honest, customer()).status_code == 200
        assert query(url, key, attack()).status_code == 200
        page.wait_for_selector("tr.alarm", timeout=5000)
        row = page.locator("tr.alarm")
        assert row.count() == 1
        assert row.get_attribute("data-key") == key.split("_")[1]
        assert page.locator("#alarm-count").inner_text() == "1 alarm"
        row.locator(".opener").click()
        assert "near-duplicates" in page.locator("tr.detail").inner_text()
        page.wait_for_selector("tr.detail .entry")
        content = page.content()
        assert TEXT not in content
        row.get_by_role("button", name="release").click()
        confirm(page)
        page.wait_for_selector("tr.alarm", state="detached", timeout=5000)
        with closing(Database(state)) as database:
            entries = [found for _, found in Ledger(database).entries()]
        assert [found.event for found in entries if found.key == key.split("_")[1]] == [
            "answer",
            "alarm_labels",
            "released",
        ]
        assert all(found.pixels not in content for found in entries if found.pixels)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_page_breaks_no_rule_and_fits(
    page: "Page", odd_console: ConsoleProcess, width: int, scheme: str
) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    requests = record_requests(page)
    open_page(page, odd_console)
    page.locator(".opener").first.click()
    page.wait_for_selector("tr.detail .entry")
    assert "judged from 100 distances on" in page.locator("tr.detail").inner_text()
    assert find_violations(page) == []
    assert find_overflowing(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="revoke").first.click()
    assert find_violations(page) == []
    origin = f"http://127.0.0.1:{odd_console.port}/"
    assert [each for each in requests if not each.startswith(origin)] == []


def test_V5_name_with_markup_is_text(page: "Page", odd_console: ConsoleProcess) -> None:
    open_page(page, odd_console)
    assert page.locator("img").count() == 0
    names = page.locator(".opener .name").all_inner_texts()
    assert sorted(names) == sorted([MARKUP, LONG, "א⟨U+202E⟩evil"])
    page.locator("#state").select_option("valid")
    page.get_by_role("button", name="revoke").first.click()
    assert page.locator("dialog img").count() == 0
    assert page.title() != "1"


def test_V4_page_that_reads_has_no_buttons(page: "Page", odd_state: Path) -> None:
    with console_process(odd_state) as console:
        open_page(page, console)
        assert page.locator("#mode").inner_text() == "read-only"
        page.locator(".opener").first.click()
        page.wait_for_selector("tr.detail .entry")
        assert page.get_by_role("button", name=re.compile("release|revoke")).count() == 0


def test_filter_and_sort_order_the_rows(page: "Page", odd_console: ConsoleProcess) -> None:
    open_page(page, odd_console)
    page.get_by_role("button", name="Name", exact=True).click()
    names = page.locator(".opener .name").all_inner_texts()
    assert names == sorted(names, key=str.lower)
    assert page.locator("th[data-column=name]").get_attribute("aria-sort") == "ascending"
    page.fill("#filter", "www")
    assert page.locator(".opener .name").all_inner_texts() == [LONG]
    assert page.locator("#keys-count").inner_text() == "1 of 3"
    page.fill("#filter", "nobody")
    assert page.locator("#no-keys").inner_text() == "No key passes the filter."


def test_500_keys_and_100_000_entries_draw_in_a_second(page: "Page", tmp_path: Path) -> None:
    """Measure the time of processors, because the time of a clock depends on other programs."""
    make_large_state(tmp_path / "state", keys=500, entries=100_000)
    metrics = page.context.new_cdp_session(page)
    metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
    with console_process(tmp_path / "state") as console:
        started_s = console.processor_s()
        page.goto(console.address())
        page.wait_for_selector("#rows > tr:nth-child(500)", state="attached")
        found = metrics.send("Performance.getMetrics")["metrics"]
        (page_s,) = (each["value"] for each in found if each["name"] == "TaskDuration")
        assert page_s + console.processor_s() - started_s < 1.0


def test_state_that_vanishes_leaves_the_last_numbers(page: "Page", tmp_path: Path) -> None:
    make_state(tmp_path / "state", "alice")
    with console_process(tmp_path / "state", "--write") as console:
        open_page(page, console)
        (tmp_path / "state").rename(tmp_path / "moved")
        page.wait_for_selector("#fault:not([hidden])")
        assert page.locator("#fault").inner_text().startswith("The state is gone.")
        assert page.locator(".opener .name").all_inner_texts() == ["alice"]
        assert page.get_by_role("button", name="revoke").count() == 0
        (tmp_path / "moved").rename(tmp_path / "state")
        page.wait_for_selector("#fault", state="hidden")
        console.process.terminate()
        page.wait_for_selector("#fault:not([hidden])")
        assert "does not answer" in page.locator("#fault").inner_text()
