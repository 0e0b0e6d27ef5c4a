"""A real browser for the tests of pages: the system's Chromium, driven by Playwright."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = (390, 1440)
SCHEMES = ("light", "dark")

# Elements whose content is wider than they are, unless they scroll on purpose.
_OVERFLOWING = """() => [...document.querySelectorAll('body *')]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0)
    .filter(e => !['auto', 'scroll'].includes(getComputedStyle(e).overflowX))
    .filter(e => getComputedStyle(e).display !== 'inline')
    .map(e => e.tagName + '.' + e.className + ' ' + e.scrollWidth + ' > ' + e.clientWidth)"""


def program() -> str | None:
    """Find Chromium. Return None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def chromium(program: str) -> Iterator["Browser"]:
    """Run Chromium without a window until the block ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


def record_requests(page: "Page") -> list[str]:
    """Return a list that grows by the address of each request that the page makes from now on."""
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    return requests


def find_violations(page: "Page") -> list[str]:
    """Run axe-core on the page. Return one line for each rule that it breaks, with the places."""
    from axe_playwright_python.sync_playwright import Axe

    response = Axe().run(page).response
    return [
        f"{rule['id']}: {', '.join(str(node['target']) for node in rule['nodes'][:5])}"
        for rule in response["violations"]
    ]


def find_overflowing(page: "Page") -> list[str]:
    """Return one line for each element whose content is wider than the element."""
    lines: list[str] = page.evaluate(_OVERFLOWING)
    return lines
