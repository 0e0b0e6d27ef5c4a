"""docs/deploy.md and the systemd unit: paths files exist, and the documented backup works."""

import re
import shlex
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from docker_files import DOCKER, ROOT
from serving import STINGY
from stingy_server import Database, Keys

DEPLOY = (ROOT / "docs" / "deploy.md").read_text()


def test_every_named_file_exists() -> None:
    paths = set(re.findall(r"(?<![./\w])(?:docker|docs|tests|benchmarks)/[\w./]+\w", DEPLOY))
    made = {"docker/secrets", "docker/secrets/stingy.toml", "docker/secrets/grafana_password"}
    assert len(paths - made) >= 8
    for name in paths - made:
        assert (ROOT / name).exists(), name


def test_documented_backup_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^(stingy state \w+[^#\n]*)", DEPLOY, re.MULTILINE)
    assert len(commands) == 2
    with closing(Database(Path("state"))) as database:  # open while it is copied
        _, text = Keys(database).create("alice", budget=1)
        for command in commands:
            subprocess.run([*STINGY, *shlex.split(command)[1:]], check=True)
    restored = ["state", "restore", "backups/monday", "--state", "copy"]
    subprocess.run([*STINGY, *restored], check=True)
    with closing(Database(Path("copy"))) as database:
        assert Keys(database).authenticate(text) is not None


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "stingy.service"
    # systemd-analyze looks for the program, which is at another path here.
    text = (DOCKER / "stingy.service").read_text()
    unit.write_text(text.replace("/opt/stingy/bin/stingy ", f"{sys.executable} "))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
