"""The REST routes of the Open Inference Protocol beside inference, and the form of refusals."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from hostile import says, upstream
from infer_requests import IMAGES, code, infer, tensor
from serving import make_bundle, make_key, make_settings, png, running
from stingy_server import ModelSettings
from stingy_server.settings import Tier
from stingy_server.store.ledger import Ledger
from upstream_edge import GOOD, Switched, edge

pytestmark = pytest.mark.anyio
N, K = 3, 10


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def read(client: httpx.AsyncClient, path: str, **headers: str) -> Any:
    response = await client.get(path, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


async def test_server_metadata_has_name_version_and_extensions(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        document = await read(client, "/v2")
        assert await read(client, "/v2/") == document
    assert set(document) == {"name", "version", "extensions"}
    assert {"binary_tensor_data", "classification"} <= set(document["extensions"])


@pytest.mark.parametrize("path", ["/v2/models/digits", "/v2/models/digits/versions/1"])
async def test_config_has_the_tensors_of_the_metadata(tmp_path: Path, path: str) -> None:
    bundle = make_bundle(tmp_path / "b", policy=f"stingy:n={N}")
    async with running(make_settings(tmp_path / "s", bundle)) as (client, _):
        metadata = await read(client, path)
        config = await read(client, f"{path}/config")
    assert config["max_batch_size"] == metadata["parameters"]["max_batch"] == 256
    (image,) = config["input"]
    assert (image["name"], image["data_type"], image["dims"]) == (
        "image",
        "TYPE_UINT8",
        [-1, -1, 3],
    )
    assert [(o["name"], o["data_type"], o["dims"]) for o in config["output"]] == [
        (o["name"], f"TYPE_{o['datatype']}", o["shape"][1:]) for o in metadata["outputs"]
    ]
    fingerprint = metadata["parameters"]["fingerprint"]
    assert config["parameters"]["fingerprint"] == {"string_value": fingerprint}


async def test_L9_config_of_a_tier_shows_the_tier_alone(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", policy="stingy:n=7")
    tiers = {"labels": Tier(classes=1, scores="none")}
    settings = make_settings(tmp_path / "s", bundle, tiers=tiers)
    async with running(settings) as (client, _):
        headers = bearer(make_key(settings.state, tier="labels"))
        config = await read(client, "/v2/models/digits/config", **headers)
    assert [(o["name"], o["dims"]) for o in config["output"]] == [("indices", [1])]
    assert config["parameters"]["support"] == {"string_value": "1"}


async def test_statistics_count_answers_and_refusals(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        assert (await infer(client, IMAGES[:2])).status_code == 200
        assert (await client.post("/predictions/digits", content=png(IMAGES[0]))).is_success
        assert code(await client.post("/v1/predict/digits", content=b"x"))[0] == 415
        (row,) = (await read(client, "/v2/models/digits/stats"))["model_stats"]
        for path in ("/v2/models/stats", "/v2/models/digits/versions/1/stats"):
            assert (await read(client, path))["model_stats"] == [row]
        for path in ("/v2/models/other/stats", "/v2/models/digits/versions/2/stats"):
            assert code(await client.get(path)) == (404, "not_found")
    assert (row["name"], row["version"]) == ("digits", "1")
    assert (row["inference_count"], row["execution_count"]) == (3, 2)
    durations = row["inference_stats"]
    assert (durations["success"]["count"], durations["fail"]["count"]) == (2, 1)
    assert row["last_inference"] > 1_700_000_000_000
    assert all(value["ns"] % 1_000_000 == 0 for value in durations.values())


async def test_L11_statistics_show_a_key_its_own_requests(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        other = bearer(make_key(settings.state))
        before = await read(client, "/v2/models/digits/stats")
        for content in (png(IMAGES[0]), b"x"):
            await client.post("/v1/predict/digits", content=content, headers=other)
        assert await read(client, "/v2/models/digits/stats") == before
        (row,) = (await read(client, "/v2/models/stats", **other))["model_stats"]
    assert row["inference_count"] == 1


async def test_model_named_stats_has_its_metadata(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", name="stats")
    async with running(make_settings(tmp_path / "s", bundle)) as (client, _):
        assert (await read(client, "/v2/models/stats"))["name"] == "stats"
        assert "model_stats" in await read(client, "/v2/models/stats/stats")


async def test_repository_index_lists_every_version(tmp_path: Path) -> None:
    models = [
        ModelSettings(bundle=make_bundle(tmp_path / "one")),
        ModelSettings(bundle=make_bundle(tmp_path / "two", version="2"), share=0.1),
        ModelSettings(bundle=make_bundle(tmp_path / "three", name="others")),
    ]
    settings = make_settings(tmp_path / "s", *models)
    async with running(settings) as (client, app):
        for body in (b"", b"{}", b'{"ready": true}', b'{"ready": null, "other": 1}'):
            response = await client.post("/v2/repository/index", content=body)
            assert [(m["name"], m["version"], m["state"]) for m in response.json()] == [
                ("digits", "1", "READY"),
                ("digits", "2", "READY"),
                ("others", "1", "READY"),
            ]
        for body, refusal in (
            (b"x", (400, "bad_request")),
            (b'{"ready": 1}', (400, "bad_request")),
            (b"[" * 5000, (413, "too_large")),
        ):
            assert code(await client.post("/v2/repository/index", content=body)) == refusal
        entries = [entry for _, entry in Ledger(app.state.service.database).entries()]
    assert [entry.event for entry in entries] == ["start"]


async def test_index_is_read_with_a_spent_budget(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings, budget=0) as (client, _):
        assert (await client.post("/v2/repository/index")).status_code == 200
        assert code(await client.post("/v1/predict/digits")) == (429, "budget_exhausted")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/models/digits/load",
        "/v2/repository/models/digits/unload",
        "/v2/models/digits/generate",
        "/v2/systemsharedmemory/region/x/register",
        "/v2/cudasharedmemory/region/x/register",
        "/v2/trace/setting",
        "/v2/logging",
    ],
)
async def test_L10_administration_by_triton_is_not_found(tmp_path: Path, path: str) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        for method in ("GET", "POST"):
            assert code(await client.request(method, path)) == (404, "not_found")


async def test_probes_take_head(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, app):
        for path in ("/v2/health/live", "/v2/health/ready"):
            response = await client.head(path, headers={"Authorization": ""})
            assert (response.status_code, response.content) == (200, b"")
        for path in ("/v2/models/digits/ready", "/v2/models/digits/versions/1/ready"):
            assert (await client.head(path)).status_code == 200
            assert (await client.head(path, headers={"Authorization": ""})).status_code == 401
        app.state.service.draining = True
        assert (await client.head("/v2/health/ready")).status_code == 503


async def test_U6_model_is_ready_while_its_upstream_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stingy_server.upstream.readiness.KEPT_S", 0.0)
    switched = Switched(says(GOOD))
    with upstream(switched) as url:
        async with running(edge(tmp_path, f"{url}/infer")) as (client, _):
            ready, index = "/v2/models/digits/ready", "/v2/repository/index"
            assert await read(client, ready) == {"name": "digits", "ready": True}
            assert switched.requests[-1].startswith(b"GET /v2/models/digits/ready ")
            switched.behaviour = says(b'{"ready": false}')
            assert code(await client.get(ready)) == (502, "upstream_failed")
            switched.behaviour = says(b"", status="503 Service Unavailable")
            assert code(await client.get(ready)) == (502, "upstream_failed")
            (row,) = (await client.post(index, json={})).json()
            assert row["state"] == "UNAVAILABLE"
            assert (await client.post(index, json={"ready": True})).json() == []
            assert (await client.get("/v2/health/ready")).status_code == 200
            switched.behaviour = says(b"OK")
            assert (await client.get(ready)).status_code == 200


async def test_refusals_have_the_form_of_their_protocol(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "s", make_bundle(tmp_path / "b"))
    async with running(settings) as (client, _):
        for path in ("/v1/none", "/v2/none", "/predictions/none", "/none", "/v20", "/v2x/models"):
            response = await client.get(path)
            assert code(response)[0] in (404, 405)
            assert response.headers["X-Request-Id"]
        refused = await client.post("/v2/models/digits/infer", json=tensor(id=[1]))
    message = "Expected a well-formed request, got a malformed one; check its headers and its body."
    assert refused.json() == {"error": message}
    assert refused.headers["X-Error-Code"] == "bad_request"
