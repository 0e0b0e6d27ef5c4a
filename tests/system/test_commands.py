"""The `stingy` command as people type it: -h everywhere, and completion in a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from serving import STINGY, make_bundle, served
from stingy_clients.cli import load_commands

BASH = shutil.which("bash")


def command_lines(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """List the words of a command and of all commands below it."""
    found = [words]
    for name, below in getattr(command, "commands", {}).items():
        found += command_lines(below, (*words, name))
    return found


def test_short_help_works_on_every_command() -> None:
    app = load_commands().app
    found = command_lines(typer.main.get_command(app))
    assert ("keys", "set") in found
    assert len(found) > 20
    for words in found:
        outputs = []
        for option in ("-h", "--help"):
            done = CliRunner().invoke(app, [*words, option], prog_name="stingy")
            assert (done.exit_code, done.stderr) == (0, ""), words
            outputs.append(done.stdout)
        assert outputs[0] == outputs[1], words
        assert " ".join(["Usage: stingy", *words]) in outputs[0]


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_installed_completion_completes_commands_in_bash(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "stingy").write_text(f'#!/bin/sh\nexec {sys.executable} -m stingy_clients "$@"\n')
    (programs / "stingy").chmod(0o755)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    installed = subprocess.run(
        [*STINGY, "--install-completion", "bash"], env=environment, capture_output=True, text=True
    )
    assert installed.returncode == 0, installed.stderr
    script = (
        "source ~/.bashrc\n"
        'COMP_WORDS=(stingy keys s) COMP_CWORD=2 COMP_LINE="stingy keys s" COMP_POINT=13\n'
        "complete -p stingy\n"
        "_stingy_completion stingy s keys\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "_stingy_completion" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[-1].split() == ["set"]


def test_stopped_server_of_a_torchvision_network_ends_silently(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", factory="torchvision.models:shufflenet_v2_x0_5", gain=1.0)
    with served(bundle, state=tmp_path / "state") as (url, process):
        assert httpx.get(f"{url}/v2/health/live", timeout=60).status_code == 200
        process.terminate()
        _, after = process.communicate(timeout=60)
        assert process.returncode == 0
    assert "leaked" not in after
