"""Clients without knowledge of Stingy all get the same answer: curl, Triton on asyncio, KServe."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio

from serving import make_bundle, make_key, png, random_images, served
from stingy_clients import Answer, Client
from stingy_server.errors import UNAUTHENTICATED

pytestmark = [
    pytest.mark.anyio,
    # These clients themselves cause warnings when they are imported or closed.
    pytest.mark.filterwarnings("default"),
]
IMAGES = random_images(3)
N, K = 4, 10


@dataclass(frozen=True)
class Expected:
    """A server, a key to it, and the answers that our own client got there."""

    url: str
    key: str
    answers: list[Answer]

    @property
    def headers(self) -> dict[str, str]:
        """A new dictionary each time, because the clients of Triton and KServe write to it."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def indices(self) -> list[list[int]]:
        return [answer.indices.tolist() for answer in self.answers]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    folder = tmp_path_factory.mktemp("interop")
    bundle = make_bundle(folder / "bundle", policy=f"stingy:n={N}")
    key = make_key(folder / "state")
    with served(bundle, state=folder / "state") as (url, _):
        with Client(url, key) as client:
            answers = client.predict_batch(IMAGES, model="digits")
        yield Expected(url, key, answers)


def curl(*arguments: str, content: bytes = b"") -> tuple[int, Any]:
    """Run curl and return the status and the JSON that it received."""
    command = ("curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", *arguments)
    done = subprocess.run(command, input=content, capture_output=True, check=True, timeout=60)
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), json.loads(body)


@pytest.mark.parametrize(
    "options",
    [("-T", "{}"), ("--data-binary", "@{}"), ("-F", "data=@{}")],
    ids=["-T", "body", "-F"],
)
def test_curl_of_torchserves_documentation_gets_labels(
    expected: Expected, tmp_path: Path, options: tuple[str, str]
) -> None:
    (tmp_path / "image.png").write_bytes(png(IMAGES[0]))
    option, file = options
    status, answer = curl(
        *(option, file.format(tmp_path / "image.png")),
        *("-H", f"Authorization: Bearer {expected.key}"),
        f"{expected.url}/predictions/digits",
    )
    assert (status, list(answer)) == (200, [e.label for e in expected.answers[0].classes])
    assert curl(f"{expected.url}/ping") == (200, {"status": "Healthy"})


@pytest.mark.parametrize("options", [["--http1.0"], ["-H", "Transfer-Encoding: chunked"], []])
def test_curl_sends_a_picture(expected: Expected, tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "image.png").write_bytes(png(IMAGES[0]))
    status, answer = curl(
        *options,
        *("--data-binary", f"@{tmp_path / 'image.png'}"),
        *("-H", f"Authorization: Bearer {expected.key}"),
        f"{expected.url}/v1/predict/digits",
    )
    assert status == 200
    assert [entry["index"] for entry in answer["answers"][0]["classes"]] == expected.indices[0]


def test_curl_sends_a_tensor_and_is_refused_with_a_wrong_key(expected: Expected) -> None:
    tensor = {"name": "image", "datatype": "UINT8", "shape": IMAGES.shape}
    document = {"inputs": [{**tensor, "data": IMAGES.ravel().tolist()}]}
    content = json.dumps(document).encode()
    target = f"{expected.url}/v2/models/digits/infer"
    request = ("--json", "@-", target)
    status, answer = curl("-H", f"Authorization: Bearer {expected.key}", *request, content=content)
    assert status == 200
    assert np.reshape(answer["outputs"][0]["data"], (3, N)).tolist() == expected.indices
    status, answer = curl("-H", "Authorization: Bearer wrong", *request, content=content)
    assert (status, set(answer)) == (401, {"error"})
    assert answer["error"].startswith("Expected a valid API key")


async def test_tritons_asyncio_client_gets_the_same_answers(expected: Expected) -> None:
    async with triton_aio.InferenceServerClient(expected.url.removeprefix("http://")) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits", headers=expected.headers)
        metadata = await client.get_model_metadata("digits", headers=expected.headers)
        assert metadata["parameters"]["support"] == N
        for binary in (True, False):
            image = triton.InferInput("image", list(IMAGES.shape), "UINT8")
            image.set_data_from_numpy(IMAGES, binary_data=binary)
            names = ("indices", "scores")
            requested = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
            result = await client.infer(
                "digits", [image], outputs=requested, headers=expected.headers
            )
            assert result.as_numpy("indices").tolist() == expected.indices
        dense = [triton.InferRequestedOutput("logits", binary_data=True)]
        result = await client.infer("digits", [image], outputs=dense, headers=expected.headers)
        assert np.array_equal(result.as_numpy("logits"), [a.dense() for a in expected.answers])
        with pytest.raises(triton.InferenceServerException) as refused:
            await client.infer("digits", [image])  # no key
        assert (refused.value.status(), refused.value.message()) == ("401", UNAUTHENTICATED.message)


async def test_tritons_asyncio_client_reads_all_about_a_model(expected: Expected) -> None:
    async with triton_aio.InferenceServerClient(expected.url.removeprefix("http://")) as client:
        server = await client.get_server_metadata(headers=expected.headers)
        config = await client.get_model_config("digits", "1", headers=expected.headers)
        index = await client.get_model_repository_index(headers=expected.headers)
        statistics = await client.get_inference_statistics("digits", headers=expected.headers)
        assert_all_about_a_model(server, config, index, statistics)


def test_tritons_client_reads_all_about_a_model(expected: Expected) -> None:
    client = triton.InferenceServerClient(expected.url.removeprefix("http://"))
    server = client.get_server_metadata(headers=expected.headers)
    config = client.get_model_config("digits", headers=expected.headers)
    index = client.get_model_repository_index(headers=expected.headers)
    statistics = client.get_inference_statistics(headers=expected.headers)
    assert_all_about_a_model(server, config, index, statistics)
    with pytest.raises(triton.InferenceServerException, match="address of this server"):
        client.load_model("digits", headers=expected.headers)
    client.close()


def assert_all_about_a_model(server: Any, config: Any, index: Any, statistics: Any) -> None:
    assert server["name"] == "stingy"
    assert [output["name"] for output in config["output"]] == ["indices", "scores", "logits"]
    assert index == [{"name": "digits", "version": "1", "state": "READY", "reason": ""}]
    (row,) = statistics["model_stats"]
    assert row["inference_count"] >= len(IMAGES)
    assert row["inference_stats"]["success"]["count"] == row["execution_count"]


def test_tritons_client_gets_classes(expected: Expected) -> None:
    client = triton.InferenceServerClient(expected.url.removeprefix("http://"))
    image = triton.InferInput("image", list(IMAGES.shape), "UINT8")
    image.set_data_from_numpy(IMAGES)
    for binary in (True, False):
        requested = [triton.InferRequestedOutput("scores", binary_data=binary, class_count=K)]
        result = client.infer("digits", [image], outputs=requested, headers=expected.headers)
        found = [
            [text.decode() if binary else text for text in row]
            for row in result.as_numpy("scores").tolist()
        ]
        assert found == [
            [f"{entry.score}:{entry.index}:{entry.label}" for entry in answer.classes]
            for answer in expected.answers
        ]
    client.close()


def values_of(datatype: str) -> Any:
    """Return the images in a datatype of the protocol."""
    if datatype == "BYTES":
        return np.array([png(image) for image in IMAGES], dtype=np.object_)
    if datatype in ("BF16", "FP16", "FP32", "FP64"):
        named = ml_dtypes.bfloat16 if datatype == "BF16" else f"float{datatype[2:]}"
        return (IMAGES.transpose(0, 3, 1, 2) / 255).astype(named)
    return IMAGES.astype(datatype.lower())


@pytest.mark.parametrize(
    "datatype",
    [
        "INT16",
        "INT32",
        "INT64",
        "UINT16",
        "UINT32",
        "UINT64",
        "FP16",
        "BF16",
        "FP32",
        "FP64",
        "BYTES",
    ],
)
def test_tritons_client_sends_every_datatype(expected: Expected, datatype: str) -> None:
    values = values_of(datatype)
    client = triton.InferenceServerClient(expected.url.removeprefix("http://"))
    image = triton.InferInput("image", list(values.shape), datatype)
    image.set_data_from_numpy(values)
    result = client.infer("digits", [image], request_id="7", headers=expected.headers)
    assert result.as_numpy("indices").tolist() == expected.indices
    assert result.get_response()["id"] == "7"
    client.close()


async def test_kserves_client_gets_the_same_classes(expected: Expected) -> None:
    kserve = pytest.importorskip("kserve", reason="needs kserve: make test-interop")
    config = kserve.RESTConfig(protocol="v2")
    async with kserve.InferenceRESTClient(config) as client:
        assert await client.is_server_live(expected.url)
        assert await client.is_server_ready(expected.url)
        assert await client.is_model_ready(expected.url, "digits", headers=expected.headers)
        for binary in (True, False):
            image = kserve.InferInput("image", list(IMAGES.shape), "UINT8")
            image.set_data_from_numpy(IMAGES, binary_data=binary)
            request = kserve.InferRequest(
                model_name="digits",
                infer_inputs=[image],
                parameters={"binary_data_output": binary},
            )
            result = await client.infer(
                expected.url, request, model_name="digits", headers=expected.headers
            )
            answer = {output.name: output.as_numpy() for output in result.outputs}
            assert answer["indices"].tolist() == expected.indices
            assert np.isfinite(answer["scores"]).all()
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            await client.infer(expected.url, request, model_name="digits")
