"""The application: who is let in, what is answered, what is charged, what never gets out."""

import asyncio
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import sample_networks
from checks import all_requests, assert_closed
from sample_networks import NOT_A_NUMBER, POISON
from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_clients import PredictResponse
from stingy_protection import build_policy
from stingy_server import ConfigurationError, Database, Keys, ModelSettings, create_app

pytestmark = pytest.mark.anyio
IMAGES = random_images(16)
NETWORKS = "sample_networks"


def tensor(images: Any = IMAGES, **rest: Any) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": images.shape,
                "data": images.ravel().tolist(),
            }
        ],
        **rest,
    }


async def infer(client: httpx.AsyncClient, images: Any, model: str = "digits") -> httpx.Response:
    return await client.post(f"/v2/models/{model}/infer", json=tensor(images))


async def used(client: httpx.AsyncClient) -> int:
    return int((await client.get("/v1/usage")).json()["used"])


def code(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["request_id"] == response.headers["X-Request-Id"]
    return response.status_code, error["code"]


def outputs(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {output["name"]: output for output in response.json()["outputs"]}


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


async def test_a_label_policy_tells_no_score(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b", policy="label"))
    async with running(settings) as (client, _):
        plain = (await client.post("/v1/predict/digits", content=png(IMAGES[0]))).json()
        assert set(plain["answers"][0]["classes"][0]) == {"index", "label"}
        assert set(outputs(await infer(client, IMAGES))) == {"indices"}
        metadata = (await client.get("/v2/models/digits")).json()
        assert [output["name"] for output in metadata["outputs"]] == ["indices"]


async def test_metadata_tells_the_policy(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b", policy="stingy:ratio=0.3"))
    async with running(settings) as (client, _):
        body = (await client.get("/v2/models/digits/versions/1")).json()
        policy = build_policy("stingy", num_classes=10, n=3)
        assert body["parameters"]["fingerprint"] == policy.fingerprint
        assert body["parameters"]["support"] == 3
        assert body["outputs"][0]["shape"] == [-1, 3]
        for path in ("/v2/models/digits/versions/2", "/v2/models/other", "/v2/models/other/ready"):
            assert code(await client.get(path)) == (404, "not_found")


WRONG = (
    *(None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic {key}", "{key}", "Bearer {key}x"),
    *("long", "revoked", "expired", "Bearer ключ"),
)


@pytest.mark.parametrize("authorization", WRONG)
async def test_A1_no_route_opens_without_a_valid_key(
    tmp_path: Path, authorization: str | None
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    key = make_key(settings.state)
    with closing(Database(settings.state)) as database:
        gone, gone_text = Keys(database).create("gone", budget=5)
        Keys(database).revoke(gone.id)
        yesterday = datetime.now(UTC) - timedelta(days=1)
        _, past_text = Keys(database).create("past", budget=5, expires=yesterday)
    special = {"long": "Bearer " + "x" * 5000, "revoked": f"Bearer {gone_text}"}
    special["expired"] = f"Bearer {past_text}"
    async with running(settings) as (client, app):
        del client.headers["Authorization"]
        headers: dict[bytes, bytes] = {}
        if authorization is not None:
            given = special.get(authorization, authorization.format(key=key))
            headers = {b"Authorization": given.encode()}
        await assert_closed(client, all_requests(app), headers)


async def test_A2_a_second_authorization_or_hostile_host_changes_nothing(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        key = client.headers["Authorization"]
        twice = [("Authorization", key), ("Authorization", key)]
        del client.headers["Authorization"]
        assert code(await client.get("/v1/usage", headers=twice)) == (401, "unauthenticated")
        for host in ("x/v2/health/live?", "x#@y", ""):
            response = await client.get("/v1/usage", headers={"Host": host})
            assert code(response) == (401, "unauthenticated")


async def test_A3_a_failing_store_is_a_503_and_no_answer(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, app):
        app.state.service.database.close()
        response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
        assert code(response) == (503, "store_unavailable")
        assert "retry-after" in response.headers


async def test_bad_input_has_its_code_and_costs_nothing(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path / "s", make_bundle(tmp_path / "b"), max_body_bytes=100_000, max_request_images=20
    )
    cases: list[tuple[str, bytes, dict[str, str], tuple[int, str]]] = [
        ("/v1/predict/digits", b"hello", {}, (415, "unsupported_image")),
        ("/v1/predict/digits", b"", {}, (415, "unsupported_image")),
        ("/v1/predict/digits", png(IMAGES[0])[:40], {}, (422, "bad_image")),
        ("/v1/predict/digits", bytes(100_001), {}, (413, "too_large")),
        ("/v1/predict/other", png(IMAGES[0]), {}, (404, "not_found")),
        ("/v1/predict/digits", b"", {"Content-Encoding": "gzip"}, (415, "unsupported_encoding")),
        ("/v1/predict/digits", b"", {"Content-Length": "x"}, (400, "bad_request")),
        ("/v2/models/digits/infer", b"{}", {}, (400, "bad_request")),
    ]
    async with running(settings) as (client, _):
        for path, body, headers, expected in cases:
            response = await client.post(path, content=body, headers=headers)
            assert code(response) == expected
            assert len(response.content) < 300
        too_many = np.concatenate([IMAGES, IMAGES])
        assert code(await infer(client, too_many)) == (413, "too_large")
        assert code(await client.get("/v1/predict/digits")) == (405, "method_not_allowed")
        assert code(await client.get("/nowhere")) == (404, "not_found")
        assert await used(client) == 0


async def test_H1_the_body_is_counted_whatever_its_length_claims(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"), max_body_bytes=1000)
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield bytes(100)

    async with running(settings) as (client, _):
        response = await client.post("/v1/predict/digits", content=endless())
        assert code(response) == (413, "too_large")
        short = await client.post(
            "/v1/predict/digits", content=bytes(1001), headers={"Content-Length": "5"}
        )
        assert code(short) == (413, "too_large")


async def test_Q3_a_batch_beyond_the_budget_is_refused_whole(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings, budget=20) as (client, _):
        outputs(await infer(client, IMAGES[:5]))
        assert code(await infer(client, IMAGES)) == (429, "budget_exhausted")
        assert await used(client) == 5
        outputs(await infer(client, IMAGES[:15]))
        for response in (
            await infer(client, IMAGES[:1]),
            await client.post("/v1/predict/digits", content=png(IMAGES[0])),
        ):
            assert code(response) == (429, "budget_exhausted")
        body = (await client.get("/v1/usage")).json()
        assert (body["budget"], body["used"], body["remaining"]) == (20, 20, 0)


async def test_Q4_what_is_not_answered_is_not_charged(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", factory=f"{NETWORKS}:Fragile")
    settings = make_settings(tmp_path / "s", bundle, queue_images=8)
    poisoned, undefined = IMAGES[:2].copy(), IMAGES[:2].copy()
    poisoned[1, 0, 0, 0] = POISON
    undefined[1, 0, 0, 0] = NOT_A_NUMBER
    async with running(settings) as (client, _):
        assert code(await infer(client, poisoned)) == (500, "internal")
        assert code(await infer(client, undefined)) == (500, "refused")
        overloaded = await infer(client, IMAGES)
        assert code(overloaded) == (503, "overloaded")
        assert overloaded.headers["retry-after"] in {"1", "2", "3"}
        assert await used(client) == 0


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
async def test_L1_twin_teachers_cannot_be_told_apart(
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
        """The body without what names the request or the key."""
        names = [response.headers["x-request-id"]]
        if response.request.url.path == "/v1/usage" and response.status_code == 200:
            names.append(response.json()["key"])
        body = response.content
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


async def test_L6_the_size_of_an_answer_depends_on_the_policy_alone(tmp_path: Path) -> None:
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


async def test_several_models_have_each_their_policy(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    settings = make_settings(
        tmp_path / "s",
        ModelSettings(bundle=bundle, name="generous", policy="open"),
        ModelSettings(bundle=bundle, name="stingy", policy="stingy:n=2"),
        allow_open=True,
    )
    async with running(settings) as (client, _):
        generous = outputs(await infer(client, IMAGES, "generous"))
        stingy = outputs(await infer(client, IMAGES, "stingy"))
        assert generous["indices"]["shape"] == [16, 10]
        assert stingy["indices"]["shape"] == [16, 2]


async def test_a_draining_server_is_not_ready_and_takes_no_more(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))) as (client, app):
        assert (await client.get("/v2/health/ready")).status_code == 200
        app.state.service.draining = True
        assert (await client.get("/v2/health/live")).status_code == 200
        assert code(await client.get("/v2/health/ready")) == (503, "draining")
        assert code(await infer(client, IMAGES)) == (503, "draining")
        app.state.service.draining = False
        assert await used(client) == 0


def test_P6_every_fault_of_every_model_is_told_before_anything_is_served(tmp_path: Path) -> None:
    sound = make_bundle(tmp_path / "sound")
    changed = make_bundle(tmp_path / "changed", name="changed")
    weights = bytearray((changed / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "weights.safetensors").write_bytes(weights)
    foreign = make_bundle(tmp_path / "foreign", name="foreign")
    manifest = (foreign / "model.json").read_text()
    (foreign / "model.json").write_text(manifest.replace("sample_networks:linear", "os:system"))
    settings = make_settings(
        tmp_path / "s",
        changed,
        foreign,
        tmp_path / "absent",
        ModelSettings(bundle=sound, name="many", policy="stingy:n=11"),
        ModelSettings(bundle=sound, name="misspelt", policy="stingi"),
        ModelSettings(bundle=sound, name="bare", policy="open"),
        ModelSettings(bundle=sound),
        ModelSettings(bundle=sound),
    )
    with pytest.raises(ConfigurationError) as error:
        create_app(settings, faults=["port: out of range"])
    faults = "\n".join(error.value.faults)
    for word in ("port", "changed", "os:system", "absent", "many", "11", "stingi", "allow_open"):
        assert word in faults
    assert "digits 1 is given 2 times" in faults


@pytest.mark.parametrize("error", [RuntimeError, KeyError, RecursionError, AssertionError])
def test_P6_a_factory_that_raises_whatever_it_is_is_a_fault_of_its_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))

    def broken(num_classes: int) -> None:
        raise error("from a factory")

    monkeypatch.setattr(sample_networks, "linear", broken)
    with pytest.raises(ConfigurationError) as raised:
        create_app(settings)
    (fault,) = raised.value.faults
    assert fault.startswith(f"digits: sample_networks:linear failed: {error.__name__}")


def test_M1_a_bundle_that_does_not_fit_its_network_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    manifest = (bundle / "model.json").read_text()
    (bundle / "model.json").write_text(manifest.replace(":linear", ":convolutional"))
    with pytest.raises(ConfigurationError, match="do not fit"):
        create_app(make_settings(tmp_path / "s", bundle))
    (bundle / "model.json").write_text(manifest.replace(":linear", ":absent"))
    with pytest.raises(ConfigurationError, match="absent"):
        create_app(make_settings(tmp_path / "s", bundle))


async def test_a_torchvision_network_can_be_served(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", factory="torchvision.models:shufflenet_v2_x0_5", gain=1.0)
    async with running(make_settings(tmp_path / "s", bundle)) as (client, _):
        assert outputs(await infer(client, IMAGES[:2]))["indices"]["shape"] == [2, 2]
