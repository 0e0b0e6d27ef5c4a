"""`stingy console`: the address that it prints, and what keeps it from a start."""

import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from console_pages import make_state
from released import RELEASED
from serving import STINGY, server_environment
from stingy_server.cli.main import app
from stingy_server.loopback.runner import bind


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["console", *map(str, words)])


@pytest.fixture
def state(tmp_path: Path) -> Path:
    make_state(tmp_path / "state", "alice")
    return tmp_path / "state"


def test_busy_port_is_a_fault_that_names_it(state: Path) -> None:
    with bind() as listener:
        port = listener.getsockname()[1]
        done = run("--state", state, "--port", str(port))
    assert done.exit_code == 2
    assert done.stderr == (
        f"127.0.0.1:{port}: cannot listen here: Address already in use; "
        "end the program that listens here, or name another port\n"
    )


def test_state_that_cannot_be_shown_is_a_fault(state: Path, tmp_path: Path) -> None:
    shutil.copytree(RELEASED, tmp_path / "old")
    for folder, sentence in (
        (tmp_path / "none", "expected a state folder at "),
        (tmp_path / "old", "got 3: start a server of this release on it, which upgrades it"),
    ):
        done = run("--state", folder, "--port", "0")
        assert done.exit_code == 2
        assert sentence in done.stderr
    assert not (tmp_path / "none").exists()


def test_folder_without_an_audit_is_a_fault(state: Path, tmp_path: Path) -> None:
    done = run("--state", state, "--port", "0", "--audit", tmp_path)
    assert done.exit_code == 2
    assert done.stderr.startswith("--audit: expected a finished audit, got no report.json")


def test_token_without_a_console_is_a_fault(state: Path) -> None:
    with socket.socket() as silent:  # bound, and nobody listens
        silent.bind(("127.0.0.1", 0))
        port = str(silent.getsockname()[1])
        done = run("token", "--state", state, "--port", port)
    assert done.exit_code == 2
    assert f"expected a console on port {port}, got none" in done.stderr


def test_options_before_token_are_a_fault(state: Path) -> None:
    done = run("--state", state, "token")
    assert done.exit_code == 2
    assert "give the options after token" in done.stderr


def test_V1_started_console_and_its_command_print_addresses(state: Path) -> None:
    process = subprocess.Popen(
        [*STINGY, "console", "--state", state, "--port", "0"],
        env=server_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        found = re.match(r"http://127\.0\.0\.1:(\d+)/\?token=", address)
        assert found is not None
        with httpx.Client(base_url=address.partition("?")[0], trust_env=False) as client:
            assert client.get("/state").status_code == 401
            assert client.get(address).status_code == 200
            assert [row["name"] for row in client.get("/state").json()["keys"]] == ["alice"]
        another = run("token", "--state", state, "--port", found[1])
        assert another.exit_code == 0, another.stderr
        assert httpx.get(another.stdout.strip(), trust_env=False).status_code == 200
        assert httpx.get(address, trust_env=False).status_code == 401
    finally:
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "token=" not in log
    assert "stingy console token --port" in log
