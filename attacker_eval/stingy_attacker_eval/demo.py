"""The demo: train, serve, query, attack and report on one small data set, in one folder.

The server is a real process behind a real socket. The demo stops it in every case.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from rich.console import Console

from stingy_attacker_eval.audit.protocol_file import load_protocol
from stingy_attacker_eval.audit.runner import run_audit
from stingy_attacker_eval.datasets.datasets import Dataset, load_dataset
from stingy_attacker_eval.errors import DemoError
from stingy_attacker_eval.lab.teachers import train_teachers
from stingy_attacker_eval.oracle.oracle import HttpOracle
from stingy_attacker_eval.report.analysis import Audit, read_audit
from stingy_attacker_eval.report.formatting import cost, signed
from stingy_attacker_eval.report.html import write_report
from stingy_attacker_eval.report.terminal import print_table
from stingy_clients import Client, TransportError

_STINGY = [sys.executable, "-m", "stingy_clients"]
_MARKER = ".stingy-demo"
_FOLDERS = ("answers", "bundles", "predictions", "state")
_FILES = (
    ".lock",
    "config.json",
    "digit.png",
    "report.html",
    "report.json",
    "rows.jsonl",
    "server.log",
    "sources.json",
    "stingy.toml",
)
_BUDGET = 6000  # three endpoints of 1,797 images, and the one query of `stingy predict`
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0

_SETTINGS = """\
# The demo's endpoints: two teachers without a policy, and one of them with a policy.
host = "127.0.0.1"
port = {port}
state = "state"
allow_open = true    # the demo compares with endpoints that answer everything

[[models]]
name = "normal"
bundle = "bundles/normal"
policy = "open"

[[models]]
name = "nasty"
bundle = "bundles/nasty"
policy = "open"

[[models]]
name = "stingy"
bundle = "bundles/normal"
policy = "stingy"
"""


def run_demo(out: Path, *, console: Console) -> Path:
    """Run the demo in the folder `out` and return the report's path.

    Files of an earlier demo in the folder are removed first, by their names.

    Raises DemoError if the folder has other things in it, or if the server does not start.
    """
    started = time.perf_counter()

    def say(text: str) -> None:
        seconds = time.perf_counter() - started
        console.print(f"[{seconds:5.1f} s] {text}", highlight=False, markup=False, soft_wrap=True)

    _prepare_folder(out)
    # Small networks gain nothing from a second thread, and the server needs a core.
    torch.set_num_threads(1)
    data = load_dataset("digits")
    say("training a normal teacher and its nasty twin")
    for teacher in train_teachers(data, out=out / "bundles", console=console):
        say(f"{teacher.name}: {teacher.accuracy:.1f} % of the test images, {teacher.bundle}")
    port = _free_port()
    (out / "stingy.toml").write_text(_SETTINGS.format(port=port))
    key = _create_key(out)
    url = f"http://127.0.0.1:{port}"
    with Client(url, key) as client, _serve(out, client):
        say(f"serving normal, nasty and stingy at {url}, log in {out / 'server.log'}")
        say("a customer runs: stingy predict digit.png --model stingy")
        console.print(_predict(out, data, url, key), end="", highlight=False, markup=False)
        say("an attacker runs: stingy audit run digits")
        protocol = load_protocol("digits")
        oracles = {e.name: HttpOracle(client, model=e.model) for e in protocol.endpoints}
        run_audit(protocol, oracles=oracles, out=out, console=console)
    audit = read_audit(out)
    print_table(audit, console)
    page = write_report(out)
    say(f"the report is {page}")
    for line in closing_lines(audit, out):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return page


def closing_lines(audit: Audit, out: Path) -> tuple[str, str, str]:
    """Return three lines for people: what leaked, to whom, and the next command.

    out: the demo's folder.
    """
    queries = max((best.queries for best in audit.best.values()), default=0)
    leaked = "; ".join(f"{item.name}: {_leak(audit, item.name)}" for item in audit.endpoints)
    bundle = shlex.quote(str(out / "bundles" / "normal"))
    return (
        f"what leaked   {leaked}",
        f"to whom       an attacker with {audit.attacker.text}, for {cost(queries)} images of each",
        f"next          stingy try {bundle} --audit {shlex.quote(str(out))}",
    )


def _leak(audit: Audit, endpoint: str) -> str:
    """Return what the best attack gained from an endpoint, in words."""
    best = audit.best.get(endpoint)
    if best is None:
        return "unknown, because no attack could be run"
    uplift = audit.uplift(best)
    if uplift.mean > 0 and uplift.is_clear:
        return f"{signed(uplift.mean)} points of accuracy"
    return "nothing measurable"


def _prepare_folder(out: Path) -> None:
    """Create the demo's folder, or remove the files of an earlier demo from it."""
    if out.exists() and not out.is_dir():
        raise DemoError(f"expected a folder for the demo, got a file at {out}")
    if out.is_dir() and any(out.iterdir()) and not (out / _MARKER).is_file():
        raise DemoError(
            f"expected an empty folder or that of an earlier demo, got {out} with other files: "
            "choose another with --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).touch()
    for path in (out / name for name in (*_FOLDERS, *_FILES)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _child_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without STINGY_ variables, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STINGY_")}
    return kept | more


def _run_stingy(*arguments: str, folder: Path | None = None, **environment: str) -> str:
    """Run one `stingy` command to its end, in the folder, and return its output."""
    result = subprocess.run(  # noqa: S603 - our own command, no shell
        [*_STINGY, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=_child_environment(**environment),
        check=False,
    )
    if result.returncode != 0:
        raise DemoError(f"stingy {arguments[0]} failed: {result.stderr.strip()}")
    return result.stdout


def _create_key(out: Path) -> str:
    state = str(out / "state")
    printed = _run_stingy(
        "keys", "create", "demo", "--budget", str(_BUDGET), "--state", state, "--json"
    )
    key: str = json.loads(printed)["key"]
    return key


def _predict(out: Path, data: Dataset, url: str, key: str) -> str:
    """Query one test image as a customer would: from the shell, with a PNG."""
    from PIL import Image

    Image.fromarray(data.test_x[0]).save(out / "digit.png")
    # The key goes by the environment, because other users can read command lines.
    arguments = ("predict", "digit.png", "--url", url, "--model", "stingy")
    return _run_stingy(*arguments, folder=out, STINGY_KEY=key)


@contextmanager
def _serve(out: Path, client: Client) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the server, wait until it is ready, and stop it at the end of the block."""
    log = out / "server.log"
    with log.open("w") as file:
        server = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [*_STINGY, "serve", "--config", str(out / "stingy.toml")],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_child_environment(),
            start_new_session=True,  # only the demo gets Ctrl-C; the server gets SIGTERM below
        )
    try:
        _wait_ready(server, client, log)
        yield server
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_ready(server: "subprocess.Popen[bytes]", client: Client, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            tail = log.read_text()[-500:].strip()
            raise DemoError(
                f"expected the server to start, got its exit before it was ready; its log: {tail}"
            )
        with suppress(TransportError):
            if client.ready():
                return
        time.sleep(0.1)
    raise DemoError(
        f"expected the server to be ready within {_START_SECONDS:.0f} s, got no answer: see {log}"
    )
