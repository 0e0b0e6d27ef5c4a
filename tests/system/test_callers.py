"""Callers of a real server: the client and `stingy predict`, with versions, forms and limits."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving import (
    STINGY,
    charged,
    make_bundle,
    make_key,
    png,
    random_images,
    served,
    server_environment,
)
from stingy_clients import BadImage, BadInput, Client

IMAGE = random_images(1)[0]


@dataclass(frozen=True)
class Served:
    """A server of three images a request, of 10,000 pixels and 50,000 bytes in sum."""

    url: str
    key: str
    state: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("callers")
    bundles = [
        make_bundle(folder / version, version=version, seed=int(version)) for version in "12"
    ]
    config = folder / "stingy.toml"
    config.write_text(
        "max_request_images = 3\nmax_pixels = 10_000\nmax_body_bytes = 50_000\n"
        f'[[models]]\nbundle = "{bundles[0]}"\n'
        f'[[models]]\nbundle = "{bundles[1]}"\nshare = 0.0\n'
    )
    key = make_key(folder / "state")
    with served("--config", config, state=folder / "state") as (url, _):
        yield Served(url, key, folder / "state")


def stingy(*arguments: str, server: Served) -> "subprocess.CompletedProcess[str]":
    """Run a command with the key in its environment."""
    return subprocess.run(
        [*STINGY, *arguments],
        env=server_environment() | {"STINGY_KEY": server.key, "STINGY_URL": server.url},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_only_model_is_found_and_each_version_answers(server: Served) -> None:
    with Client(server.url, server.key) as client:
        (model,) = client.models()
        assert (model.name, model.version, model.versions) == ("digits", "1", ("1", "2"))
        assert model.answer == "top 2 of 10 classes, log_prob at 3 decimals"
        assert (model.max_batch, model.max_pixels, model.max_bytes) == (3, 10_000, 50_000)
        unnamed, second = client.predict(IMAGE), client.predict(IMAGE, version="2")
        assert (unnamed.version, second.version) == ("1", "2")
        assert unnamed == client.predict(png(IMAGE), model="digits", version="1")
        assert second == client.predict(png(IMAGE), version="2")
        assert unnamed.classes != second.classes
        assert unnamed.probabilities is not None
        assert unnamed.probabilities.sum() == pytest.approx(1, abs=2e-3)


def test_photos_beyond_one_request_are_answered(server: Served) -> None:
    photos = [png(image) for image in random_images(7, size=60)]  # 3,600 pixels, 11 kB each
    arrays = random_images(7, size=70)  # 14,700 bytes each
    small = random_images(10)
    before = charged(server.state)
    with Client(server.url, server.key) as client:
        for images in (photos, arrays, small, [*photos, *arrays, *small]):
            answers = client.predict_batch(images)
            assert [answer.label for answer in answers] == [
                client.predict(image).label for image in images
            ]
    assert charged(server.state) - before == 2 * 2 * (7 + 7 + 10)


def test_photo_beyond_the_limit_says_the_limit(server: Served) -> None:
    with Client(server.url, server.key) as client:
        for images, words in (
            ([png(np.zeros((200, 200, 3), np.uint8))], "an image of at most 10,000 pixels"),
            ([random_images(1, size=200)[0]], "a body of at most 50,000 bytes"),
        ):
            with pytest.raises(BadImage, match=words):
                client.predict_batch(images)
        with pytest.raises(BadInput, match="expected 1 to 3 images, got 4"):
            client.predict_tensor(random_images(4))


def test_predict_prints_probabilities_and_the_form(server: Served, tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    printed = stingy("predict", f"{tmp_path}/a.png", "--version", "2", server=server)
    assert printed.returncode == 0, printed.stderr
    assert "digits 2, 8 of 10 classes withheld, probabilities among the other 2" in printed.stdout
    assert "probability (sent as log_prob)" in printed.stdout
    with Client(server.url, server.key) as client:
        answer = client.predict(tmp_path / "a.png", version="2")
    assert answer.probabilities is not None
    for value in answer.probabilities:
        assert f"{value:.3f}" in printed.stdout
    raw = stingy("predict", f"{tmp_path}/a.png", "--version", "2", "--json", server=server)
    document = json.loads(raw.stdout)
    assert (document["scores"], document["version"]) == ("log_prob", "2")
    assert [entry["score"] for entry in document["classes"]] == [
        entry.score for entry in answer.classes
    ]
