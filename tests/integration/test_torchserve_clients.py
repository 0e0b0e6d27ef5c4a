"""Clients of TorchServe's image classifier get the same answers here, at another address."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageFilter

from image_classifier import image_classifier, make_network
from model_servers import needs_torchserve
from serving import make_key, served

pytestmark = [pytest.mark.integration, needs_torchserve()]


@dataclass(frozen=True)
class Server:
    """A server and a key to it."""

    url: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_network(tmp_path_factory.mktemp("network") / "digits")


@pytest.fixture(scope="module")
def torchserves(bundle: Path) -> Iterator[Server]:
    with image_classifier(bundle) as server:
        yield Server(server.url, server.token()["Authorization"].removeprefix("Bearer "))


@pytest.fixture(scope="module", params=["rounded:scores=prob,decimals=6", "stingy:n=3", "label"])
def ours(request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: Any) -> Iterator[Server]:
    state = tmp_path_factory.mktemp("state")
    key = make_key(state)
    options = ("--policy", request.param, "--allow-open")
    with served(bundle, *options, state=state) as (url, _):
        yield Server(url, key)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a picture of 300 x 260 pixels, in which cells of the network differ."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    image = Image.fromarray(noise).resize((300, 260)).filter(ImageFilter.GaussianBlur(3))
    path = tmp_path_factory.mktemp("picture") / "cat.jpg"
    image.save(path, quality=95)
    return path


def post_body(server: Server, picture: Path) -> Any:
    return httpx.post(
        f"{server.url}/predictions/digits", content=picture.read_bytes(), headers=server.headers
    ).json()


def post_form(server: Server, picture: Path) -> Any:
    with picture.open("rb") as file:
        return httpx.post(
            f"{server.url}/predictions/digits/1.0", files={"data": file}, headers=server.headers
        ).json()


def upload(server: Server, picture: Path) -> Any:
    return _curl(server, "-T", str(picture))


def send_form(server: Server, picture: Path) -> Any:
    return _curl(server, "-F", f"data=@{picture}")


def _curl(server: Server, *options: str) -> Any:
    authorization = ("-H", f"Authorization: {server.headers['Authorization']}")
    command = ("curl", "-sS", f"{server.url}/predictions/digits", *options, *authorization)
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return httpx.Response(200, content=done.stdout).json()


@pytest.mark.parametrize("query", [post_body, post_form, upload, send_form])
def test_client_of_torchserve_gets_what_leaves_of_its_answer(
    torchserves: Server, ours: Server, picture: Path, query: Callable[[Server, Path], Any]
) -> None:
    whole, answer = query(torchserves, picture), query(ours, picture)
    assert len(whole) == 5
    both = [label for label in whole if label in answer]
    assert list(whole)[: len(both)] == list(answer)[: len(both)] == both
    assert len(both) == min(len(whole), len(answer))
    # Probabilities are of the classes that leave: all ten, three, or one.
    mass = 1.0 if len(answer) == 10 else sum(whole[label] for label in both)
    for label in both:
        assert answer[label] == pytest.approx(whole[label] / mass, abs=2e-3)
    assert sum(answer.values()) == pytest.approx(1.0, abs=2e-3)


def test_probe_has_torchserves_words(torchserves: Server, ours: Server) -> None:
    for server in (torchserves, ours):
        response = httpx.get(f"{server.url}/ping", headers=server.headers)
        assert (response.status_code, response.json()) == (200, {"status": "Healthy"})


def test_refusals_have_torchserves_fields(torchserves: Server, ours: Server) -> None:
    for server in (torchserves, ours):
        path = f"{server.url}/predictions/unknown"
        response = httpx.post(path, content=b"x", headers=server.headers)
        assert response.status_code == 404
        document = response.json()
        assert set(document) == {"code", "type", "message"}
        assert document["code"] == 404
