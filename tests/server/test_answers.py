"""The answers of an application: the policy's, the same every time, and nothing beside them."""

import asyncio
import re
from pathlib import Path

import httpx
import numpy as np
import pytest

from checks import all_requests
from infer_requests import IMAGES, code, infer, outputs, tensor
from sample_networks import NOT_A_NUMBER, POISON
from serving import make_bundle, make_settings, png, random_images, running
from stingy_clients import PredictResponse
from stingy_protection import build_policy

pytestmark = pytest.mark.anyio
NETWORKS = "sample_networks"


async def test_one_image_gets_the_policy_answer_best_first(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b", policy="stingy:n=3"))
    async with running(settings) as (client, _):
        response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
        assert response.status_code == 200
        body = PredictResponse.model_validate_json(response.content)
        assert (body.model, body.version) == ("digits", "1")
        (answer,) = body.answers
        scores = [entry.score for entry in answer.classes]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
        assert sum(np.exp(scores)) == pytest.approx(1, abs=0.01)  # type: ignore[arg-type]
        assert answer.classes[0].label == f"class {answer.classes[0].index}"
        for header, value in (("x-content-type-options", "nosniff"), ("cache-control", "no-store")):
            assert response.headers[header] == value
        assert "server" not in response.headers


async def test_every_way_to_send_a_picture_gets_the_same_answer(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), strict=True)
    async with running(settings) as (client, _):
        plain = (await client.post("/v1/predict/digits", content=png(IMAGES[0]))).json()
        body = outputs(await infer(client, IMAGES[:1]))
        classes = plain["answers"][0]["classes"]
        assert body["indices"]["data"] == [entry["index"] for entry in classes]
        assert body["scores"]["data"] == [entry["score"] for entry in classes]


async def test_label_policy_sends_no_score(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b", policy="label"))
    async with running(settings) as (client, _):
        plain = (await client.post("/v1/predict/digits", content=png(IMAGES[0]))).json()
        assert set(plain["answers"][0]["classes"][0]) == {"index", "label"}
        assert set(outputs(await infer(client, IMAGES))) == {"indices"}
        metadata = (await client.get("/v2/models/digits")).json()
        assert [output["name"] for output in metadata["outputs"]] == ["indices"]


async def test_metadata_describes_the_policy(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b", policy="stingy:ratio=0.3"))
    async with running(settings) as (client, _):
        body = (await client.get("/v2/models/digits/versions/1")).json()
        policy = build_policy("stingy", num_classes=10, n=3)
        assert body["parameters"]["fingerprint"] == policy.fingerprint
        assert body["parameters"]["support"] == 3
        assert body["outputs"][0]["shape"] == [-1, 3]
        for path in ("/v2/models/digits/versions/2", "/v2/models/other", "/v2/models/other/ready"):
            assert code(await client.get(path)) == (404, "not_found")


async def test_L7_a_bad_image_never_touches_its_neighbours(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", factory=f"{NETWORKS}:Fragile")
    settings = make_settings(tmp_path / "s", bundle, max_delay_ms=50, strict=True)
    poisoned = IMAGES[:1].copy()
    poisoned[0, 0, 0, 0] = POISON
    async with running(settings) as (client, _):
        singles = [outputs(await infer(client, image[None])) for image in IMAGES[:8]]
        batched = await asyncio.gather(
            *(infer(client, image[None]) for image in IMAGES[:4]),
            infer(client, poisoned),
            *(infer(client, image[None]) for image in IMAGES[4:8]),
        )
        assert code(batched.pop(4)) == (500, "internal")
        assert [outputs(response) for response in batched] == singles


async def test_P5_one_image_has_one_answer_in_strict_mode(tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path / "b", factory=f"{NETWORKS}:convolutional", policy="open:decimals=6", gain=3.0
    )
    answers = set()
    for start in range(2):  # the second time after a restart, with another key
        settings = make_settings(
            tmp_path / f"s{start}", bundle, allow_open=True, strict=True, batch_size=16
        )
        async with running(settings) as (client, _):
            for mates in range(1, 16):
                for place in {0, mates // 2, mates - 1}:
                    batch = random_images(mates, seed=mates * 100 + place)
                    batch[place] = IMAGES[0]
                    body = outputs(await infer(client, batch))
                    answers.add(tuple(body["scores"]["data"][place * 10 : place * 10 + 10]))
            plain = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            classes = plain.json()["answers"][0]["classes"]
            answers.add(tuple(entry["score"] for entry in classes))
    assert len(answers) == 1


@pytest.mark.parametrize("policy", ["stingy:n=3", "stingy:n=3,scores=logit", "ranked_labels:n=3"])
@pytest.mark.parametrize("num_classes", [10, 1000])
async def test_L1_twin_teachers_are_indistinguishable(
    tmp_path: Path, policy: str, num_classes: int
) -> None:
    async def everything(variant: int) -> list[tuple[int, bytes, dict[str, str]]]:
        bundle = make_bundle(
            tmp_path / f"b{variant}",
            factory=f"{NETWORKS}:Twin",
            policy=policy,
            num_classes=num_classes,
            shared=3,
            variant=variant,
        )
        settings = make_settings(tmp_path / f"s{variant}", bundle, max_body_bytes=200_000)
        async with running(settings, budget=100) as (client, app):
            responses = [await client.request(method, path) for method, path in all_requests(app)]
            responses += [
                await client.post("/v1/predict/digits", content=png(image)) for image in IMAGES
            ]
            dense = {"name": "logits", "parameters": {"binary_data": True}}
            binary = {"binary_data_output": True}
            for document in (
                tensor(),
                tensor(parameters=binary),
                tensor(outputs=[dense]),
                tensor(outputs=[{"name": "scores"}], top_k=10, temperature=5, debug=True),
                tensor(outputs=[{"name": "features"}]),
                tensor(IMAGES[:, :2]),
            ):
                responses.append(await client.post("/v2/models/digits/infer", json=document))
            responses += [await client.post("/v1/predict/digits", content=b"x") for _ in range(2)]
            responses += [await infer(client, IMAGES) for _ in range(3)]  # beyond the budget
        assert {response.status_code for response in responses} >= {200, 400, 404, 405, 415, 429}
        return [(r.status_code, bare(r), headers(r)) for r in responses]

    def bare(response: httpx.Response) -> bytes:
        """Return the body without the ids of request and key, and without measured times."""
        names = [response.headers["x-request-id"]]
        if response.request.url.path == "/v1/usage" and response.status_code == 200:
            names.append(response.json()["key"])
        body = re.sub(rb'"(ns|last_inference)":\d+', b"", response.content)  # times
        for name in names:
            body = body.replace(name.encode(), b"")
        return body

    def headers(response: httpx.Response) -> dict[str, str]:
        return {k: v for k, v in response.headers.items() if k not in ("x-request-id", "date")}

    assert await everything(1) == await everything(2)


async def test_L4_a_refused_answer_shows_nothing_of_the_row(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", factory=f"{NETWORKS}:Fragile")
    bad = IMAGES[:1].copy()
    bad[0, 0, 0, 0] = NOT_A_NUMBER
    async with running(make_settings(tmp_path / "s", bundle)) as (client, _):
        response = await client.post("/v1/predict/digits", content=png(bad[0]))
        assert code(response) == (500, "refused")
        assert not any(character.isdigit() for character in response.json()["error"]["message"])


async def test_L6_size_of_an_answer_depends_only_on_the_policy(tmp_path: Path) -> None:
    sizes = set()
    for num_classes in (10, 1000):
        bundle = make_bundle(
            tmp_path / f"b{num_classes}", num_classes=num_classes, policy="stingy:n=3"
        )
        async with running(make_settings(tmp_path / f"s{num_classes}", bundle)) as (client, _):
            document = tensor(parameters={"binary_data_output": True})
            response = await client.post("/v2/models/digits/infer", json=document)
            sizes.add(len(response.content))
    assert len(sizes) == 1
