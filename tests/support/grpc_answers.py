"""A server for unmodified clients of gRPC, with the answers that they should get."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from certificates import Authority
from serving import free_port, make_bundle, make_key, random_images, served
from stingy_clients import Answer, Client

IMAGES = random_images(3)
N = 4  # classes of an answer


@dataclass(frozen=True)
class Expected:
    """A server with a gRPC port, a key to it, and the answers that our own client got there.

    Attributes:
        ca: the file of the authority of its certificate; None for a server without TLS.
    """

    address: str
    key: str
    answers: list[Answer]
    ca: Path | None

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    @property
    def indices(self) -> list[list[int]]:
        return [answer.indices.tolist() for answer in self.answers]


@contextmanager
def grpc_answers(folder: Path, *, tls: bool = False) -> Iterator[Expected]:
    """Run a server with a gRPC port, and get the expected answers over HTTP."""
    bundle = make_bundle(folder / "bundle", policy=f"stingy:n={N}")
    key, port = make_key(folder / "state"), free_port()
    environment, ca = {}, None
    if tls:
        authority, ca = Authority(), folder / "ca.pem"
        ca.write_bytes(authority.pem)
        chain, secret = authority.issue().write(folder / "tls")
        environment = {"STINGY_TLS_CERT": str(chain), "STINGY_TLS_KEY": str(secret)}
    with served(bundle, "--grpc-port", str(port), state=folder / "state", **environment) as (
        url,
        _,
    ):
        with Client(url, key, ca=ca) as client:
            answers = client.predict_batch(IMAGES, model="digits")
        yield Expected(f"127.0.0.1:{port}", key, answers, ca)
