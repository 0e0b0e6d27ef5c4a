"""The benchmark's servers without a layer still answer, so that their rows are of something."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EDGE = Path(__file__).parents[2] / "benchmarks" / "serving" / "edge.py"
ALL = "rate,key,budget,ledger,metrics,meter,guard"


@pytest.mark.parametrize("layers", ["", ALL])
def test_the_edge_is_measured_with_and_without_its_layers(layers: str) -> None:
    said = subprocess.run(
        [sys.executable, EDGE, "--turns", "2", "--alone", layers],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(said.stdout) > 0
