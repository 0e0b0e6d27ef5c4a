"""The models that a key reads: those served, as it gets them, and the limits of a request."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from infer_requests import code
from serving import make_bundle, make_key, make_settings, png, random_images, running
from stingy_clients import ModelList
from stingy_protection import Preprocessing
from stingy_server import ModelSettings, Settings
from stingy_server.detection.key_profiles import Action
from stingy_server.settings import Tier, WatchSettings

pytestmark = pytest.mark.anyio
TIERS = {
    "narrow": Tier(classes=1, decimals=1),
    "order": Tier(scores="rank"),
    "bare": Tier(classes=2, scores="none"),
}
LIMITS = {"max_batch": 256, "max_pixels": 2**24, "max_bytes": 40 * 2**20}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def listed(client: httpx.AsyncClient, key: str | None = None) -> list[dict[str, Any]]:
    response = await client.get("/v1/models", headers={} if key is None else bearer(key))
    assert response.status_code == 200, response.text
    ModelList.model_validate_json(response.content, strict=True)
    found: list[dict[str, Any]] = response.json()["models"]
    return found


def two_models(tmp_path: Path, **options: Any) -> Settings:
    first = make_bundle(tmp_path / "b", policy="stingy:n=3")
    return make_settings(
        tmp_path / "s",
        ModelSettings(bundle=first, name="zebras", policy="label"),
        ModelSettings(bundle=first, budget=77, budget_per_day=66),
        ModelSettings(bundle=make_bundle(tmp_path / "b2", version="2", seed=1), share=0.5),
        **options,
    )


async def test_L14_list_has_each_model_once_and_nothing_else(tmp_path: Path) -> None:
    async with running(two_models(tmp_path)) as (client, _):
        digits, zebras = await listed(client)
    assert digits.pop("version") in ("1", "2")
    assert digits == {
        "name": "digits",
        "versions": ["1", "2"],
        "num_classes": 10,
        "image_size": [8, 8],
        "answer": digits["answer"],
        "scores": "log_prob",
        **LIMITS,
    }
    assert zebras["name"] == "zebras"
    assert zebras["answer"] == "top 1 of 10 classes, no scores"
    assert set(zebras) == {*digits, "version"}


async def test_L14_version_of_the_list_is_the_one_that_answers(tmp_path: Path) -> None:
    settings = two_models(tmp_path)
    image = png(random_images(1)[0])
    found = set()
    async with running(settings) as (client, _):
        for _ in range(8):
            key = make_key(settings.state)
            answer = await client.post("/v1/predict/digits", content=image, headers=bearer(key))
            metadata = await client.get("/v2/models/digits", headers=bearer(key))
            version = (await listed(client, key))[0]["version"]
            assert answer.json()["version"] == version
            assert metadata.json()["parameters"]["version"] == version
            found.add(version)
    assert found == {"1", "2"}


@pytest.mark.parametrize(
    ("tier", "answer", "form"),
    [
        ("full", "top 3 of 10 classes, log_prob at 3 decimals", "log_prob"),
        ("narrow", "top 1 of 10 classes, log_prob at 1 decimals", "log_prob"),
        ("order", "top 3 of 10 classes, ranks only", "rank"),
        ("bare", "top 2 of 10 classes, no scores", "none"),
    ],
)
async def test_L14_key_reads_what_its_tier_lets_out(
    tmp_path: Path, tier: str, answer: str, form: str
) -> None:
    bundle = make_bundle(tmp_path / "b", policy="stingy:n=3")
    settings = make_settings(tmp_path / "s", bundle, tiers=TIERS)
    key = make_key(settings.state, tier=tier)
    async with running(settings) as (client, _):
        (model,) = await listed(client, key)
        assert (model["answer"], model["scores"]) == (answer, form)
        await assert_form(client, key, form)


async def test_L14_key_in_alarm_reads_that_labels_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, app):
        watch = app.state.service.watch
        key = make_key(settings.state)
        monkeypatch.setattr(watch, "action", lambda _: Action.LABELS)
        (model,) = await listed(client, key)
        assert (model["answer"], model["scores"]) == ("top 1 of 10 classes, no scores", "none")
        await assert_form(client, key, "none")
        monkeypatch.setattr(watch, "action", lambda _: Action.REFUSE)
        refused = await client.get("/v1/models", headers=bearer(key))
        assert code(refused) == (403, "suspended")


async def assert_form(client: httpx.AsyncClient, key: str, form: str) -> None:
    """Check that every answer of a key names this form, and has scores unless it is none."""
    images = random_images(2)
    plain = await client.post("/v1/predict/digits", content=png(images[0]), headers=bearer(key))
    assert plain.json()["scores"] == form
    assert ("score" in plain.json()["answers"][0]["classes"][0]) == (form != "none")
    metadata = await client.get("/v2/models/digits", headers=bearer(key))
    assert metadata.json()["parameters"]["scores"] == form
    image = {"name": "image", "datatype": "UINT8", "shape": images.shape}
    for binary in (False, True):
        document = {
            "inputs": [{**image, "data": images.ravel().tolist()}],
            "parameters": {"binary_data_output": binary},
        }
        response = await client.post("/v2/models/digits/infer", json=document, headers=bearer(key))
        length = int(response.headers.get("Inference-Header-Content-Length", 10**6))
        assert httpx.Response(200, content=response.content[:length]).json()["parameters"] == {
            "scores": form
        }


@pytest.mark.parametrize("form", ["log_prob", "prob", "logit"])
async def test_L14_answer_names_the_form_of_the_policy(tmp_path: Path, form: str) -> None:
    bundle = make_bundle(tmp_path / "b", policy=f"stingy:n=3,scores={form}")
    settings = make_settings(tmp_path / "s", bundle)
    async with running(settings) as (client, _):
        await assert_form(client, make_key(settings.state), form)


async def test_limits_are_those_of_the_settings_and_the_key(tmp_path: Path) -> None:
    settings = make_settings(
        tmp_path / "s",
        make_bundle(tmp_path / "b"),
        max_request_images=100,
        max_pixels=10_000,
        max_body_bytes=5_000,
        watch=WatchSettings(max_unwatched=80),
    )
    slow = make_key(settings.state, rate="60/minute")
    async with running(settings) as (client, _):
        for key, most in ((make_key(settings.state), 80), (slow, 60)):
            limits = {"max_batch": most, "max_pixels": 10_000, "max_bytes": 5_000}
            metadata = (await client.get("/v2/models/digits", headers=bearer(key))).json()
            for found in ((await listed(client, key))[0], metadata["parameters"]):
                assert limits.items() <= found.items()


@pytest.mark.parametrize(
    ("preprocessing", "most"),
    [({}, 64), ({"resize_shorter": 2048}, 16), ({"crop": True}, 256)],
)
async def test_models_with_large_inputs_take_fewer_images(
    tmp_path: Path, preprocessing: dict[str, Any], most: int
) -> None:
    large = Preprocessing((1024, 1024), (0.0,) * 3, (1.0,) * 3, **preprocessing)
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, app):
        fleet = app.state.service.fleet
        (endpoint,) = fleet
        fleet.put(replace(endpoint, manifest=replace(endpoint.manifest, preprocessing=large)))
        assert (await listed(client))[0]["max_batch"] == most
