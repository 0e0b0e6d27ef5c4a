"""A whole audit as its user runs it: lab, server, attacks, report, each by its command."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serving import STINGY, make_key, served, server_environment

PROTOCOL = """
title = "a lab's two endpoints"
dataset = "digits"
budget = 700
images = 200
students = ["cnn_tiny"]
seeds = [0, 1]
epochs = 2
batch = 32
lr = 0.05
attacks = ["label_only", { name = "dafl", steps = 3 }]

[[teachers]]
name = "small"
network = "cnn_tiny"
epochs = 2
nasty = false

[[endpoints]]
name = "stingy"
model = "stingy"
defence = "stingy"
bundle = "small-normal"
policy = "stingy"
attacks = ["soft_label"]

[[endpoints]]
name = "prototype"
model = "prototype"
defence = "class_prototype"
bundle = "small-normal"
policy = "class_prototype:n=3,buckets=1"
attacks = ["soft_label"]
"""


def audit(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [*STINGY, "audit", *arguments],
        env=server_environment() | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the protocol, and bundles that answer as it wants."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "audit.toml").write_text(PROTOCOL)
    audit("lab", "--protocol", folder / "audit.toml", "--out", folder / "bundles")
    return folder


@contextmanager
def serving(lab: Path, state: Path, *, images: int) -> Iterator[tuple[str, ...]]:
    """Run the lab's server; yield the options that name it, with a key for so many images."""
    key = make_key(state, budget=images)
    trusted = {"STINGY_TRUSTED_FACTORIES": '["stingy_attacker_eval.students"]'}
    with served("--config", lab / "bundles" / "stingy.toml", state=state, **trusted) as (url, _):
        yield "--url", url, "--key", key


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without their times, and without what the teacher's own logits alone give."""
    left_out = ("seconds", "kl")
    return [{name: row[name] for name in row if name not in left_out} for row in rows]


def test_white_box_attack_runs_from_lab_bundles_and_is_marked(lab: Path) -> None:
    with serving(lab, lab / "state", images=2800) as where:
        audit("run", lab / "audit.toml", "--out", lab / "plain", *where)
        more = ("--bundles", lab / "bundles", "--parallel", "2")
        audit("run", lab / "audit.toml", "--out", lab / "out", *more, *where)
    plain, report = report_of(lab / "plain"), report_of(lab / "out")
    assert {item["attack"] for item in plain["skipped"]} == {"dafl[white-box,steps=3]"}
    assert report["skipped"] == []
    white_box = [row for row in report["rows"] if "white-box" in row["attack"]]
    assert [(row["endpoint"], row["seed"], row["queries"]) for row in white_box] == [
        *(("stingy", seed, 0) for seed in (0, 1)),
        *(("prototype", seed, 0) for seed in (0, 1)),
    ]
    assert all("white-box" not in item["best"] for item in report["endpoints"])
    rest = [row for row in report["rows"] if row not in white_box]
    assert numbers(rest) == numbers(plain["rows"])
    assert "Attacks marked white-box read the network itself" in (
        (lab / "out" / "report.html").read_text()
    )
