"""The pictures in the docs are of the pages as they are."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("name", "room"), [("console", "console"), ("try", "tryout")])
def test_picture_of_a_page_is_of_its_present_files(name: str, room: str) -> None:
    with Image.open(ROOT / "docs" / f"{name}.png") as picture:
        about = picture.info.get("page")
    folder = ROOT / "server" / "stingy_server" / room / "static"
    parts = [path.read_bytes() for path in sorted(folder.iterdir())]
    assert about == hashlib.sha256(b"".join(parts)).hexdigest(), (
        "draw it again: python benchmarks/pages/draw_pages.py demo"
    )
