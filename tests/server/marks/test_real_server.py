"""Twins at a real server: an honest key, and a key in alarm whose answers are marked."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infer_requests import tensor
from marking import (
    IMAGES,
    SHARE,
    alarmed_key,
    differing,
    marked_rows,
    write_secret,
)
from serving import make_bundle, make_key, make_settings, running, served

BATCH = 8  # images of a request


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twins")
    make_bundle(folder / "b")
    write_secret(folder / "marks.secret")
    return folder


@pytest.fixture(scope="module")
def twins(folder: Path) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Serve an honest key and one in alarm."""
    keys = [make_key(folder / "s"), alarmed_key(folder / "s")]
    marks = {"secret_file": str(folder / "marks.secret"), "share": SHARE}
    environment = {"STINGY_MARKS": json.dumps(marks), "STINGY_WATCH": '{"then": "mark"}'}
    with served(folder / "b", "--strict", state=folder / "s", **environment) as (url, _):
        honest, suspect = (
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) for key in keys
        )
        with honest, suspect:
            yield honest, suspect


def contents(client: httpx.Client) -> list[bytes]:
    """Query the images in batches, and return the bodies."""
    return [
        client.post("/v2/models/digits/infer", json=tensor(IMAGES[row : row + BATCH])).content
        for row in range(0, len(IMAGES), BATCH)
    ]


@pytest.mark.anyio
async def test_Y1_twins_differ_in_marked_inputs_alone(
    folder: Path, twins: tuple[httpx.Client, httpx.Client]
) -> None:
    honest, suspect = twins
    plain = contents(honest)
    marked = contents(suspect)
    assert contents(honest) == plain
    assert differing(firsts(plain), firsts(marked)) == marked_rows(IMAGES)
    batches = {row // BATCH for row in marked_rows(IMAGES)}
    assert differing(plain, marked) == sorted(batches)
    # A server without marks gives the honest key the same bytes.
    settings = make_settings(folder / "plain", folder / "b", strict=True)
    async with running(settings) as (client, _):
        for number, body in enumerate(plain):
            images = IMAGES[number * BATCH : (number + 1) * BATCH]
            response = await client.post("/v2/models/digits/infer", json=tensor(images))
            assert response.content == body


def firsts(bodies: list[bytes]) -> list[int]:
    """Return the first class of each image."""
    found = []
    for body in bodies:
        outputs = {each["name"]: each for each in json.loads(body)["outputs"]}
        width = outputs["indices"]["shape"][1]
        found += outputs["indices"]["data"][::width]
    return found
