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
from serving import make_bundle, make_key, served


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
    """Query each image alone, and return the bodies."""
    return [
        client.post("/v2/models/digits/infer", json=tensor(IMAGES[row : row + 1])).content
        for row in range(len(IMAGES))
    ]


def test_Y1_twins_differ_in_marked_inputs_alone(
    folder: Path, twins: tuple[httpx.Client, httpx.Client]
) -> None:
    honest, suspect = twins
    plain = contents(honest)
    marked = contents(suspect)
    assert differing(plain, marked) == marked_rows(IMAGES)
    assert contents(honest) == plain
    # A server without marks gives the honest key the same bytes.
    with served(folder / "b", "--strict", state=folder / "plain") as (url, _):
        headers = {"Authorization": f"Bearer {make_key(folder / 'plain')}"}
        with httpx.Client(base_url=url, headers=headers) as client:
            assert contents(client) == plain


def test_Y1_honest_key_shares_batches_with_marked_images(
    twins: tuple[httpx.Client, httpx.Client],
) -> None:
    honest, suspect = twins
    whole = [
        client.post("/v2/models/digits/infer", json=tensor(IMAGES)).json()["outputs"]
        for client in (honest, suspect, honest)
    ]
    assert whole[0] == whole[2]
    assert whole[0] != whole[1]
