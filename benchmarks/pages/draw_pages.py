"""Draw docs/console.png and docs/try.png, the pictures of the pages on loopback.

    python benchmarks/pages/draw_pages.py DEMO

DEMO is the folder of `make demo`. The keys of the console's picture are made up; the other page has
the demo's model and image. A file bears the SHA-256 of the page's own files, so that a test finds a
picture of an older page. It needs `chromium` and the package playwright.
"""

import argparse
import hashlib
import io
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "support"))

DOCS = ROOT / "docs"
AUDIT = ROOT / "attacker_eval" / "results" / "attackers_digits"
FOLDERS = {
    "console": ROOT / "server" / "stingy_server" / "console" / "static",
    "try": ROOT / "server" / "stingy_server" / "tryout" / "static",
}
KEY = "page"
FOREVER = 4e9  # seconds of the epoch
_WIDTH, _COLOURS = 1280, 64


def page_digest(folder: Path) -> str:
    """Return the SHA-256 of a page's own files, hex."""
    parts = [path.read_bytes() for path in sorted(folder.iterdir())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def save(name: str, content: bytes) -> None:
    """Write a picture with few colours and the digest of its page."""
    image = Image.open(io.BytesIO(content)).convert("RGB").quantize(_COLOURS)
    about = PngImagePlugin.PngInfo()
    about.add_text(KEY, page_digest(FOLDERS[name]))
    image.save(DOCS / f"{name}.png", optimize=True, pnginfo=about)


def photograph(address: str, prepare: "Callable[[Page], None]") -> bytes:
    """Open a page, and return its picture once it is prepared."""
    from browser import chromium, program

    found = program()
    if found is None:
        sys.exit("expected chromium to be installed, found none")
    with chromium(found) as browser:
        page = browser.new_page(viewport={"width": _WIDTH, "height": 800})
        page.goto(address)
        prepare(page)
        return page.screenshot(full_page=True)


def draw_try(demo: Path) -> None:
    """Show the demo's model and image."""
    command = ["try", "bundles/normal", "--audit", AUDIT]
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "stingy_clients", *command],
        cwd=demo,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def choose_image(page: "Page") -> None:
            page.wait_for_selector("#describe:not(:empty)")
            page.set_input_files("#file", demo / "digit.png")
            page.wait_for_selector("#one-scroll:not([hidden])")
            page.wait_for_timeout(1000)

        try:
            address = next(iter(process.stdout or ()))
            save("try", photograph(address.strip(), choose_image))
        finally:
            process.terminate()


def draw_console() -> None:
    """Show made-up keys, one of them in alarm."""
    from console_pages import add_entries, entry, make_state
    from console_process import console_process
    from stingy_server import Budgets, Database
    from stingy_server.detection.key_profiles import Action, KeyProfileStore, Observation
    from stingy_server.store.budgets import key_owner
    from stingy_server.store.deployments import Deployments, Report

    chance = random.Random(1)  # noqa: S311
    names = ("mallory", "alice", "Acme Imaging", "bob", "carol")
    limits, used = (20_000, 500, 100_000, 2000, 5000), (400, 316, 61_234, 812, 4100)
    bits = (32.0, 5.0, 4.7, 5.2, 1.2)
    with tempfile.TemporaryDirectory() as name:
        state = Path(name) / "state"
        keys = [key for key, _ in make_state(state, *names)]
        with closing(Database(state)) as database:
            for place, key in enumerate(keys):
                owner = key_owner(key.id)
                Budgets(database).set(owner, total=limits[place], day_total=None)
                Budgets(database).reserve([owner], used[place])
                observation = Observation(
                    images=used[place],
                    bits=used[place] * bits[place],
                    novel=min(used[place], 210),
                    near=150 if place == 0 else place,
                    repeats=0,
                    distances=bytes(chance.randint(20, 60) for _ in range(150)),
                    classes={"digits": (10, {c: chance.randint(1, 40) for c in range(10)})},
                )
                KeyProfileStore(database).add(
                    key.id, observation, alarm=0.9, ladder=[Action.LABELS]
                )
            reports = [
                Report("a", "digits", "1", "stingy: top 2 of 10 classes", None, None, FOREVER, ""),
                Report("a", "digits", "2", "label: top 1 of 10 classes", 0.1, None, FOREVER, ""),
            ]
            Deployments(database).report("a", reports)
        entries = [
            entry(
                chance.choice(keys).id,
                ago_s=age + chance.random(),
                bits=10.0 + chance.random(),
                latency_us=int(chance.lognormvariate(8.3, 0.5)),
            )
            for age in range(1500, 0, -1)
            for _ in range(chance.randint(0, 3))
        ]
        add_entries(state, entries)
        with console_process(state, "--write") as run:

            def wait(page: "Page") -> None:
                page.wait_for_selector("#age:not(:empty)")
                page.wait_for_timeout(1500)

            save("console", photograph(run.address(), wait))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the pictures of pages on loopback.")
    parser.add_argument("demo", type=Path, help="the folder of `make demo`")
    arguments = parser.parse_args()
    draw_console()
    draw_try(arguments.demo.resolve())
