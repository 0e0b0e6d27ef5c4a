"""A call has the answer, the refusal, the charge and the entry of the same request over REST."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from fastapi import FastAPI

from rpc_calls import RpcClient, books, infer_message, read_answer, rpc_running
from sample_networks import NOT_A_NUMBER, POISON
from serving import make_bundle, make_key, make_settings, png, random_images
from stingy_server import Settings, errors
from stingy_server.errors import Refusal
from stingy_server.rpc.messages import MESSAGES
from stingy_server.rpc.statuses import STATUS
from stingy_server.store.ledger import Entry

pytestmark = pytest.mark.anyio
IMAGES = random_images(3)
LARGE = random_images(2, size=200)  # 240 KB as typed contents
FLOATS = (IMAGES.transpose(0, 3, 1, 2) / 255).astype(np.float32)


def settings_of(tmp_path: Path, network: str = "linear", **options: Any) -> Settings:
    bundle = make_bundle(tmp_path / "b", factory=f"sample_networks:{network}", policy="stingy:n=3")
    return make_settings(tmp_path / "s", bundle, **options)


async def post(
    client: httpx.AsyncClient, images: Any, model: str = "digits", **fields: Any
) -> httpx.Response:
    """Send the same request over REST, as a binary tensor."""
    parameters = {"binary_data_size": images.nbytes}
    tensor = {"name": "image", "datatype": "UINT8", "shape": images.shape}
    head = orjson.dumps(
        {
            "inputs": [{**tensor, "parameters": parameters}],
            "parameters": {"binary_data_output": False},
            **fields,
        }
    )
    return await client.post(
        f"/v2/models/{model}/infer",
        content=head + images.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )


def arrays(response: httpx.Response) -> dict[str, Any]:
    outputs = response.json()["outputs"]
    return {each["name"]: np.reshape(each["data"], each["shape"]) for each in outputs}


def without_time(entry: Entry) -> Entry:
    return entry._replace(time="", request="", latency_us=0)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("images", "datatype"),
    [(IMAGES, "UINT8"), (FLOATS, "FP32"), ([png(image) for image in IMAGES], "BYTES")],
    ids=["uint8", "fp32", "files"],
)
async def test_G2_answer_charge_and_entry_are_those_of_rest(
    tmp_path: Path, raw: bool, images: Any, datatype: str
) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, client, app):
        expected = await post(client, IMAGES)
        message = infer_message(images, raw=raw, datatype=datatype, id="mine")
        ended = await rpc.call("ModelInfer", message)
        assert ended.status == "OK", ended.text
        answer, other = read_answer(ended.body), arrays(expected)
        assert list(answer) == list(other) == ["indices", "scores"]
        assert np.array_equal(answer["indices"], other["indices"])
        assert np.allclose(answer["scores"], other["scores"], atol=1e-6)
        response = MESSAGES["ModelInferResponse"].FromString(ended.body)
        assert (response.model_name, response.model_version, response.id) == ("digits", "1", "mine")
        assert bool(response.raw_output_contents) is raw
        used, (first, second) = await books(app)
        assert used == 2 * len(IMAGES)
        assert without_time(first) == without_time(second)
        assert second.request == ended.metadata["x-request-id"]


async def test_G2_large_typed_contents_are_read_in_turns(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, client, app):
        expected = arrays(await post(client, LARGE))
        ended = await rpc.call("ModelInfer", infer_message(LARGE, raw=False))
        assert np.array_equal(read_answer(ended.body)["indices"], expected["indices"])
        files = [png(image) for image in LARGE]
        ended = await rpc.call("ModelInfer", infer_message(files, raw=False, datatype="BYTES"))
        assert np.array_equal(read_answer(ended.body)["indices"], expected["indices"])
        assert (await books(app))[0] == 3 * len(LARGE)


async def test_requested_outputs_are_those_of_rest(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, _, _):
        for raw in (True, False):
            message = infer_message(IMAGES, raw=raw, outputs=("logits", "indices"))
            answer = read_answer((await rpc.call("ModelInfer", message)).body)
            assert list(answer) == ["logits", "indices"]
            assert answer["logits"].shape == (3, 10)
            assert np.isfinite(answer["logits"]).sum(axis=1).tolist() == [3, 3, 3]
            top = answer["logits"].argmax(axis=1)
            assert np.array_equal(top, answer["indices"][:, 0])


async def test_classes_are_those_of_rest(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, client, _):
        output = {"name": "scores", "parameters": {"classification": 2}}
        response = await post(client, IMAGES, outputs=[output])
        (expected,) = response.json()["outputs"]
        message = infer_message(IMAGES, raw=False, outputs={"scores": 2})
        answer = read_answer((await rpc.call("ModelInfer", message)).body)
        assert [text.decode() for text in answer["scores"]] == expected["data"]


async def refused_alike(
    rpc: RpcClient, client: httpx.AsyncClient, app: FastAPI, images: Any, **fields: Any
) -> tuple[int, str, Mapping[str, str]]:
    """Refuse a request over REST and a call, and return status and code, which are the same."""
    response = await post(client, images, **fields)
    ended = await rpc.call("ModelInfer", infer_message(images, **fields))
    code = response.headers["x-error-code"]
    assert ended.code == code
    assert ended.status == STATUS[code].name
    assert ended.body == b""
    used, entries = await books(app)
    assert used == 0
    refused = [without_time(entry) for entry in entries if entry.event == code]
    assert sum(entry.requests for entry in refused) == 2
    return response.status_code, code, ended.metadata


@pytest.mark.parametrize(
    ("options", "fields", "status", "code"),
    [
        ({}, {"model": "other"}, 404, "not_found"),
        ({"max_request_images": 2}, {}, 413, "too_large"),
        ({"queue_images": 2}, {}, 503, "overloaded"),
    ],
)
async def test_G2_refusal_is_that_of_rest_and_costs_nothing(
    tmp_path: Path, options: dict[str, Any], fields: dict[str, Any], status: int, code: str
) -> None:
    async with rpc_running(settings_of(tmp_path, **options)) as (rpc, client, app):
        refused = await refused_alike(rpc, client, app, IMAGES, **fields)
        assert refused[:2] == (status, code)
        assert ("retry-after" in refused[2]) is (status == 503)


@pytest.mark.parametrize(("value", "code"), [(POISON, "internal"), (NOT_A_NUMBER, "refused")])
async def test_G2_fault_of_the_network_is_that_of_rest(
    tmp_path: Path, value: int, code: str
) -> None:
    images = IMAGES.copy()
    images[0, 0, 0] = value
    async with rpc_running(settings_of(tmp_path, "Fragile")) as (rpc, client, app):
        assert (await refused_alike(rpc, client, app, images))[1] == code


async def test_G2_budget_and_rates_hold_over_both(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    async with rpc_running(settings, budget=5) as (rpc, client, app):
        assert (await post(client, IMAGES)).status_code == 200
        ended = await rpc.call("ModelInfer", infer_message(IMAGES))
        assert (ended.status, ended.code) == ("RESOURCE_EXHAUSTED", "budget_exhausted")
        assert (await rpc.call("ModelInfer", infer_message(IMAGES[:2]))).status == "OK"
        assert (await books(app))[0] == 5
        limited = RpcClient(app.state.rpc.port, make_key(settings.state, rate="4/hour"))
        ended = await limited.call("ModelInfer", infer_message(IMAGES))
        assert (ended.metadata["ratelimit-limit"], ended.metadata["ratelimit-remaining"]) == (
            "4",
            "1",
        )
        ended = await limited.call("ModelInfer", infer_message(IMAGES))
        assert (ended.status, ended.code) == ("RESOURCE_EXHAUSTED", "rate_limited")
        assert int(ended.metadata["retry-after"]) > 0
        await limited.channel.close()
        few = RpcClient(app.state.rpc.port, make_key(settings.state, request_rate="2/hour"))
        codes = [(await few.call("ServerMetadata")).code for _ in range(3)]
        assert codes == [None, None, "rate_limited"]
        await few.channel.close()


async def test_G2_documents_are_those_of_rest(tmp_path: Path) -> None:
    async with rpc_running(settings_of(tmp_path)) as (rpc, client, _):
        await rpc.call("ModelInfer", infer_message(IMAGES))

        async def read(name: str, /, **fields: Any) -> Any:
            names = {f"{name}Request", f"{name}Response"} & set(MESSAGES)
            request = f"{name}Request"
            message = MESSAGES[request](**fields).SerializeToString() if request in names else b""
            ended = await rpc.call(name, message)
            assert ended.status == "OK", ended.text
            return MESSAGES[f"{name}Response"].FromString(ended.body)

        assert (await read("ServerLive")).live
        assert (await read("ServerReady")).ready
        assert (await read("ModelReady", name="digits", version="1")).ready
        server = (await client.get("/v2")).json()
        metadata = await read("ServerMetadata")
        assert (metadata.name, metadata.version) == (server["name"], server["version"])
        model = (await client.get("/v2/models/digits")).json()
        metadata = await read("ModelMetadata", name="digits")
        assert [(t.name, t.datatype, [*t.shape]) for t in metadata.outputs] == [
            (t["name"], t["datatype"], t["shape"]) for t in model["outputs"]
        ]
        assert orjson.loads(metadata.properties["labels"]) == model["parameters"]["labels"]
        assert metadata.properties["fingerprint"] == model["parameters"]["fingerprint"]
        config = (await client.get("/v2/models/digits/config")).json()
        found = (await read("ModelConfig", name="digits")).config
        assert (found.name, found.max_batch_size) == (config["name"], config["max_batch_size"])
        assert [[*each.dims] for each in found.output] == [e["dims"] for e in config["output"]]
        stats = (await client.get("/v2/models/digits/stats")).json()["model_stats"]
        (statistics,) = (await read("ModelStatistics", name="digits")).model_stats
        assert statistics.inference_count == stats[0]["inference_count"] == len(IMAGES)
        (index,) = (await read("RepositoryIndex", ready=True)).models
        assert (index.name, index.version, index.state) == ("digits", "1", "READY")
        for name in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"):
            message = MESSAGES[f"{name}Request"](name="other").SerializeToString()
            ended = await rpc.call(name, message)
            assert (ended.status, ended.code) == ("NOT_FOUND", "not_found"), name


def test_every_code_of_the_error_table_has_a_status() -> None:
    codes = {value.code for value in vars(errors).values() if isinstance(value, Refusal)}
    assert codes == set(STATUS)


def test_every_status_is_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "query.md").read_text(encoding="utf-8")
    for code, status in STATUS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{status.name}` |")]
        assert f"`{code}`" in row, code
