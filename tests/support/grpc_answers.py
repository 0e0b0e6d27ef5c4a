"""A server for unmodified clients of gRPC, with the answers that they should get."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving import free_port, make_bundle, make_key, random_images, served
from stingy_clients import Answer, Client

IMAGES = random_images(3)
N = 4  # classes of an answer


@dataclass(frozen=True)
class Expected:
    """A server with a gRPC port, a key to it, and the answers that our own client got there."""

    address: str
    key: str
    answers: list[Answer]

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @property
    def indices(self) -> list[list[int]]:
        return [answer.indices.tolist() for answer in self.answers]


@contextmanager
def grpc_answers(folder: Path) -> Iterator[Expected]:
    """Run a server with a gRPC port, and get the expected answers over HTTP."""
    bundle = make_bundle(folder / "bundle", policy=f"stingy:n={N}")
    key, port = make_key(folder / "state"), free_port()
    with served(bundle, "--grpc-port", str(port), state=folder / "state") as (url, _):
        with Client(url, key) as client:
            answers = client.predict_batch(IMAGES, model="digits")
        yield Expected(f"127.0.0.1:{port}", key, answers)
