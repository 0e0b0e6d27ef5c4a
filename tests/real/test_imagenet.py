"""A network with trained weights of ImageNet-1k: packed from its own code, served, queried."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "real" / "imagenet.py"
EXPECTED = {
    "china.jpg": {"palace"},
    "flower.jpg": {"daisy"},
    "chelsea.png": {"tiger cat", "Egyptian cat", "tabby"},
    "coffee.png": {"espresso"},
}


@pytest.mark.real
@pytest.mark.timeout(600)
def test_photographs_get_their_classes() -> None:
    completed = subprocess.run(
        [sys.executable, EXAMPLE], capture_output=True, text=True, check=True, timeout=500
    )
    assert "classes      1000: tench, goldfish, great white shark" in completed.stdout
    assert "what leaves  stingy: top 100 of 1000 classes" in completed.stdout
    rows = dict(
        line.split(maxsplit=1) for line in completed.stdout.splitlines() if "withheld" in line
    )
    for photograph, labels in EXPECTED.items():
        best, _, _ = rows[photograph].partition(",")
        assert best.rpartition(" ")[0] in labels, (photograph, best)
        assert rows[photograph].endswith("900 of 1000 classes withheld")
