"""The benchmark's servers answer without their layers too, so their rows measure answers."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

EDGE = Path(__file__).parents[2] / "benchmarks" / "serving" / "edge.py"
ALL = "rate,key,budget,ledger,metrics,meter,guard"


@pytest.mark.parametrize("layers", ["", ALL])
def test_edge_is_measured_with_and_without_its_layers(layers: str) -> None:
    completed = subprocess.run(
        [sys.executable, EDGE, "--turns", "2", "--alone", layers],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(completed.stdout) > 0


def test_server_without_any_layer_starts_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EDGE.parent))
    rows, wire, programs = map(importlib.import_module, ("stingy_rows", "wire", "running"))
    launch = rows.launch_stingy(
        rows.own_python(), tmp_path, layers=f"{ALL.removeprefix('rate,')},gate"
    )
    with programs.running(
        launch.command, folder=tmp_path, environment=launch.environment
    ) as server:
        programs.await_port(server, launch.port, timeout_s=60)
        wire.check(wire.BINARY, launch.port, launch.headers)
