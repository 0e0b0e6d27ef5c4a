"""A real `stingy console`, states that are large, and queries that look like extraction."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from console_pages import ANSWER, add_entries
from serving import STINGY, server_environment
from stingy_server import Database, Keys
from stingy_server.codec.images import Pixels
from stingy_server.console.tokens import make_token
from stingy_server.detection.key_profiles import KeyProfileStore, Observation
from stingy_server.times import stamp


class ConsoleProcess:
    """A console that runs.

    Attributes:
        process: the process.
        port: the port of its page.
    """

    def __init__(self, process: "subprocess.Popen[str]", port: int, state: Path) -> None:
        self.process = process
        self.port = port
        self._pepper = (state / "pepper").read_bytes()

    def address(self) -> str:
        """Return an address that opens the page once."""
        return f"http://127.0.0.1:{self.port}/?token={make_token(self._pepper, self.port)}"

    def processor_s(self) -> float:
        """Return the seconds of processors that the process has used."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def console_process(state: Path, *options: str | Path) -> Iterator[ConsoleProcess]:
    """Run `stingy console` on a free port."""
    process = subprocess.Popen(
        [*STINGY, "console", "--state", state, "--port", "0", *options],
        env=server_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.search(r":(\d+)/", process.stdout.readline())
        assert found is not None
        yield ConsoleProcess(process, int(found[1]), state)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def make_large_state(state: Path, *, keys: int, entries: int) -> None:
    """Make a state with so many watched keys and so many entries of the ledger."""
    with closing(Database(state)) as database:
        store, profiles = Keys(database), KeyProfileStore(database)
        ids = [store.create(f"customer {number:03}", budget=20_000)[0].id for number in range(keys)]
        for number, key in enumerate(ids):
            counts = {label: 1 + number % 7 for label in range(10)}
            observed = Observation(
                images=70, bits=350.0, novel=70, near=number % 3, classes={"digits": (10, counts)}
            )
            profiles.add(key, observed, alarm=0.9, ladder=[])
    now = stamp()
    add_entries(
        state, (ANSWER._replace(time=now, key=ids[number % keys]) for number in range(entries))
    )


def query(url: str, key: str, images: Pixels) -> httpx.Response:
    """Send images to the model "digits" in one request."""
    image = {"name": "image", "datatype": "UINT8", "shape": images.shape}
    return httpx.post(
        f"{url}/v2/models/digits/infer",
        json={"inputs": [{**image, "data": images.ravel().tolist()}]},
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=60,
    )
