"""Classification outputs: the classes that leave, as Triton writes them, and never more."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from infer_requests import IMAGES, code, outputs, tensor
from serving import make_bundle, make_key, make_settings, running
from stingy_server.settings import Tier

pytestmark = pytest.mark.anyio
INFER = "/v2/models/digits/infer"
N = 4


def classes(name: str, count: Any, *, binary: bool = False) -> dict[str, Any]:
    return {"name": name, "parameters": {"classification": count, "binary_data": binary}}


async def classify(client: httpx.AsyncClient, *requested: dict[str, Any]) -> httpx.Response:
    return await client.post(INFER, json=tensor(IMAGES[:2], outputs=list(requested)))


def binary_texts(response: httpx.Response) -> list[str]:
    rest = response.content[int(response.headers["Inference-Header-Content-Length"]) :]
    texts = []
    while rest:
        size = int.from_bytes(rest[:4], "little")
        texts.append(rest[4 : 4 + size].decode())
        rest = rest[4 + size :]
    return texts


@pytest.mark.parametrize("name", ["indices", "scores", "logits"])
async def test_classes_are_score_index_and_label_best_first(tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path / "b", policy=f"stingy:n={N}")
    async with running(make_settings(tmp_path / "s", bundle)) as (client, _):
        plain = outputs(await client.post(INFER, json=tensor(IMAGES[:2])))
        found = outputs(await classify(client, classes(name, 2)))[name]
        response = await classify(client, classes(name, 2, binary=True))
    assert (found["datatype"], found["shape"]) == ("BYTES", [2, 2])
    expected = [
        f"{score}:{index}:class {index}"
        for scores, indices in zip(
            np.reshape(plain["scores"]["data"], (2, N))[:, :2].tolist(),
            np.reshape(plain["indices"]["data"], (2, N))[:, :2].tolist(),
            strict=True,
        )
        for score, index in zip(scores, indices, strict=True)
    ]
    assert found["data"] == expected == binary_texts(response)
    (described,) = orjson.loads(
        response.content[: int(response.headers["Inference-Header-Content-Length"])]
    )["outputs"]
    assert described["parameters"]["binary_data_size"] == sum(4 + len(t) for t in expected)


@pytest.mark.parametrize("count", [N, N + 1, 10, 1000, 2**40])
async def test_L9_more_classes_than_leave_are_those_that_leave(tmp_path: Path, count: int) -> None:
    bundle = make_bundle(tmp_path / "b", policy=f"stingy:n={N}")
    tiers = {"two": Tier(classes=2)}
    settings = make_settings(tmp_path / "s", bundle, tiers=tiers)
    async with running(settings) as (client, _):
        assert outputs(await classify(client, classes("logits", count)))["logits"]["shape"] == [
            2,
            N,
        ]
        client.headers["Authorization"] = f"Bearer {make_key(settings.state, tier='two')}"
        assert outputs(await classify(client, classes("logits", count)))["logits"]["shape"] == [
            2,
            2,
        ]


async def test_classes_beside_plain_outputs_keep_their_order(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", policy=f"stingy:n={N}")
    dense = {"name": "logits", "parameters": {"binary_data": True}}
    async with running(make_settings(tmp_path / "s", bundle)) as (client, _):
        response = await classify(client, {"name": "indices"}, classes("scores", 1), dense)
        length = int(response.headers["Inference-Header-Content-Length"])
        found = orjson.loads(response.content[:length])["outputs"]
        assert [output["name"] for output in found] == ["indices", "scores", "logits"]
        assert len(response.content) - length == 2 * 10 * 4
        none = outputs(await classify(client, classes("scores", 0)))["scores"]
    assert (none["datatype"], none["shape"]) == ("FP32", [2, N])


@pytest.mark.parametrize(
    ("policy", "name", "count"),
    [("label", "indices", 1), ("label", "logits", 2), ("stingy", "scores", -1)],
)
async def test_classes_without_scores_are_refused(
    tmp_path: Path, policy: str, name: str, count: int
) -> None:
    bundle = make_bundle(tmp_path / "b", policy=policy)
    async with running(make_settings(tmp_path / "s", bundle)) as (client, _):
        response = await classify(client, classes(name, count))
        assert code(response) == (400, "bad_request")
        assert "classification" in response.json()["error"]


async def test_other_types_of_a_classification_are_refused(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))) as (client, _):
        for count in ("2", 1.5, True, [1]):
            assert code(await classify(client, classes("scores", count))) == (400, "bad_request")
