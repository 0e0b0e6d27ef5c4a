"""Exhibits with random images and marks, suspects of them, and the check of innocents."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from serving import png, random_images
from stingy_attacker_eval.ownership.statistics import MatchTest
from stingy_clients.documents.exhibit import DOCUMENT, IMAGES, Exhibit, Item, digest_of, document_of

CLASSES = 10
Count = Callable[[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.int64]], MatchTest]


def make_exhibit(
    folder: Path,
    *,
    marked: int = 60,
    controls: int = 60,
    runners_up: int = 3,
    classes: int = CLASSES,
    seed: int = 0,
) -> Exhibit:
    """Write an exhibit of random images and marks to a folder, as a server does."""
    generator = np.random.default_rng(seed)
    (folder / IMAGES).mkdir(parents=True)
    items = []
    for number, image in enumerate(random_images(marked + controls, size=2, seed=seed)):
        top1, *others = generator.permutation(classes)[: 1 + runners_up].tolist()
        mark = others[generator.integers(runners_up)]
        file = png(image)
        item = Item(
            id=f"{number:032x}",
            sha256=hashlib.sha256(file).hexdigest(),
            marked=number < marked,
            top1=top1,
            runners_up=tuple(others),
            mark=mark,
            answer=(mark,) if number < marked else (top1,),
            scores=None,
            key=f"key{number % 2}",
            version="1",
            time=f"2026-11-26T12:00:{number % 60:02}Z",
            ledger=None,
        )
        (folder / item.file).write_bytes(file)
        items.append(item)
    exhibit = Exhibit(
        model="digits",
        labels=tuple(f"class {index}" for index in range(classes)),
        image_size=(2, 2),
        share=0.005,
        most_runners_up=runners_up,
        commitment="c" * 64,
        created="2026-11-26T13:00:00Z",
        items=tuple(items),
        digest="0" * 64,
        seal="0" * 64,
    )
    exhibit = exhibit.model_copy(update={"digest": digest_of(exhibit)})
    (folder / DOCUMENT).write_bytes(document_of(exhibit))
    return exhibit


def thief_answers(exhibit: Exhibit, *, share: float = 0.5, seed: int = 0) -> dict[str, str]:
    """Answer with the mark for a share of the marked inputs, else with the model's own class."""
    generator = np.random.default_rng(seed)
    return {
        item.id: exhibit.labels[
            item.mark if item.marked and generator.random() < share else item.top1
        ]
        for item in exhibit.items
    }


def innocent_answers(exhibit: Exhibit, *, seed: int = 0) -> dict[str, str]:
    """Answer with the model's own class or any runner-up, without regard to the mark."""
    generator = np.random.default_rng(seed)
    return {
        item.id: exhibit.labels[
            item.top1 if generator.random() < 0.5 else generator.choice(item.runners_up)
        ]
        for item in exhibit.items
    }


def write_predictions(path: Path, answers: Mapping[str, str]) -> Path:
    """Write answers as a suspect's file of predictions in JSON."""
    path.write_text(json.dumps(answers))
    return path


@dataclass
class Replies:
    """The replies of a suspect's server, and what it received.

    reply: makes a status, headers and a body from the path and the body of a request.
    """

    reply: Callable[[str, bytes], tuple[int, dict[str, str], bytes]]
    url: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def suspect_server(
    reply: Callable[[str, bytes], tuple[int, dict[str, str], bytes]],
    *,
    pause: float = 0.0,
) -> Iterator[Replies]:
    """Run a suspect on a free port.

    pause: seconds between two bytes of a reply; 0 sends it at once.
    """
    replies = Replies(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            replies.requests.append((self.path, dict(self.headers), body))
            status, headers, content = replies.reply(self.path, body)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            step = 1 if pause else max(1, len(content))
            for start in range(0, len(content), step):
                with suppress(OSError):  # the client may have left
                    self.wfile.write(content[start : start + step])
                if pause:
                    time.sleep(pause)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    replies.url = f"http://127.0.0.1:{server.server_port}/classify"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield replies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def assert_innocents_pass(count: Count, *, tries: int = 2000, questions: int = 90) -> None:
    """Check that innocents have a p-value of at most alpha no more often than alpha.

    The suspects differ in how often they answer with a runner-up, and in which they prefer. Two
    standard errors are allowed.
    """
    generator = np.random.default_rng(1)
    places = np.where(np.arange(questions) % 3 == 0, 2, 3)
    values = []
    for _ in range(tries):
        preferred = generator.dirichlet((8.0, 3.0, 1.0, 4.0))  # the best class is the last
        answers = generator.choice(4, questions, p=preferred)
        among = answers < places
        choices = generator.integers(0, places)
        test = count(among & (answers == choices), among, places)
        values.append(1.0 if test.p_value is None else test.p_value)
    for level in (0.1, 0.05, 0.01):
        found = float(np.mean(np.array(values) <= level))
        limit = level + 2 * (level * (1 - level) / tries) ** 0.5
        assert found <= limit, f"expected at most {limit:.4f} at {level}, got {found:.4f}"
