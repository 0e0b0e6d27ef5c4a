"""Draw docs/report.png, the picture of a report in README.md, from a committed report.

    python benchmarks/audit/draw_picture.py

It opens the page in Chromium, 1,440 pixels wide, and keeps it down to the end of its figure. The
file bears the SHA-256 of the page, so that a test finds a picture of an older one. It needs
`chromium` and the package playwright.
"""

import hashlib
import io
import shutil
from pathlib import Path

from PIL import Image, PngImagePlugin

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "attacker_eval" / "results" / "frontier_tin100_32" / "report.html"
PICTURE = ROOT / "docs" / "report.png"
KEY = "report"
_WIDTH, _MARGIN = 1440, 24
_COLOURS = 64


def page_digest(page: Path) -> str:
    """Return the SHA-256 of a page, hex."""
    return hashlib.sha256(page.read_bytes()).hexdigest()


def draw(page: Path, picture: Path) -> None:
    """Write the picture of the upper part of a page."""
    content = io.BytesIO(_photograph(page))
    image = Image.open(content).convert("RGB").quantize(_COLOURS)
    about = PngImagePlugin.PngInfo()
    about.add_text(KEY, page_digest(page))
    image.save(picture, optimize=True, pnginfo=about)


def _photograph(page: Path) -> bytes:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": _WIDTH, "height": 900})
        opened.goto(page.as_uri())
        end = opened.locator("#policies-table").evaluate("t => t.getBoundingClientRect().bottom")
        clip = {"x": 0, "y": 0, "width": _WIDTH, "height": end + _MARGIN}
        content = opened.screenshot(clip=clip, full_page=True)
        browser.close()
    return content


if __name__ == "__main__":
    draw(PAGE, PICTURE)
