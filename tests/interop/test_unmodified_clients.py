"""Clients that know nothing of Stingy: curl, Triton's on asyncio, KServe's. All get one answer."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio

from serving import make_bundle, make_key, png, random_images, served
from stingy_clients import Answer, Client

pytestmark = [
    pytest.mark.anyio,
    # Theirs, not ours: what these clients themselves warn of when imported or closed.
    pytest.mark.filterwarnings("default"),
]
IMAGES = random_images(3)
N, K = 4, 10


@dataclass(frozen=True)
class Asked:
    """A server, a key to it, and what our own client was answered there."""

    url: str
    key: str
    answers: list[Answer]

    @property
    def headers(self) -> dict[str, str]:
        """A new dictionary each time: Triton's and KServe's clients write into it."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def indices(self) -> list[list[int]]:
        return [answer.indices.tolist() for answer in self.answers]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("interop")
    bundle = make_bundle(folder / "bundle", policy=f"stingy:n={N}")
    key = make_key(folder / "state")
    with served(bundle, state=folder / "state") as (url, _):
        with Client(url, key) as client:
            answers = client.predict_batch(IMAGES, model="digits")
        yield Asked(url, key, answers)


def curl(*arguments: str, given: bytes = b"") -> tuple[int, Any]:
    """The status and the JSON that curl got."""
    command = ("curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", *arguments)
    done = subprocess.run(command, input=given, capture_output=True, check=True, timeout=60)
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), json.loads(body)


@pytest.mark.parametrize("how", [["--http1.0"], ["-H", "Transfer-Encoding: chunked"], []])
def test_curl_sends_a_picture(asked: Asked, tmp_path: Path, how: list[str]) -> None:
    (tmp_path / "image.png").write_bytes(png(IMAGES[0]))
    status, told = curl(
        *how,
        *("--data-binary", f"@{tmp_path / 'image.png'}"),
        *("-H", f"Authorization: Bearer {asked.key}"),
        f"{asked.url}/v1/predict/digits",
    )
    assert status == 200
    assert [entry["index"] for entry in told["answers"][0]["classes"]] == asked.indices[0]


def test_curl_sends_a_tensor_and_is_told_of_a_wrong_key(asked: Asked) -> None:
    tensor = {"name": "image", "datatype": "UINT8", "shape": IMAGES.shape}
    document = {"inputs": [{**tensor, "data": IMAGES.ravel().tolist()}]}
    content = json.dumps(document).encode()
    target = f"{asked.url}/v2/models/digits/infer"
    sent = ("--json", "@-", target)
    status, told = curl("-H", f"Authorization: Bearer {asked.key}", *sent, given=content)
    assert status == 200
    assert np.reshape(told["outputs"][0]["data"], (3, N)).tolist() == asked.indices
    status, told = curl("-H", "Authorization: Bearer wrong", *sent, given=content)
    assert (status, told["error"]["code"]) == (401, "unauthenticated")


async def test_tritons_client_on_asyncio(asked: Asked) -> None:
    async with triton_aio.InferenceServerClient(asked.url.removeprefix("http://")) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits", headers=asked.headers)
        metadata = await client.get_model_metadata("digits", headers=asked.headers)
        assert metadata["parameters"]["support"] == N
        for binary in (True, False):
            image = triton.InferInput("image", list(IMAGES.shape), "UINT8")
            image.set_data_from_numpy(IMAGES, binary_data=binary)
            names = ("indices", "scores")
            wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
            result = await client.infer("digits", [image], outputs=wanted, headers=asked.headers)
            assert result.as_numpy("indices").tolist() == asked.indices
        dense = [triton.InferRequestedOutput("logits", binary_data=True)]
        result = await client.infer("digits", [image], outputs=dense, headers=asked.headers)
        assert np.array_equal(result.as_numpy("logits"), [a.dense() for a in asked.answers])
        with pytest.raises(triton.InferenceServerException):
            await client.infer("digits", [image])  # no key


async def test_kserves_client(asked: Asked) -> None:
    kserve = pytest.importorskip("kserve", reason="needs kserve: make test-interop")
    config = kserve.RESTConfig(protocol="v2")
    async with kserve.InferenceRESTClient(config) as client:
        assert await client.is_server_live(asked.url)
        assert await client.is_server_ready(asked.url)
        assert await client.is_model_ready(asked.url, "digits", headers=asked.headers)
        for binary in (True, False):
            image = kserve.InferInput("image", list(IMAGES.shape), "UINT8")
            image.set_data_from_numpy(IMAGES, binary_data=binary)
            request = kserve.InferRequest(
                model_name="digits",
                infer_inputs=[image],
                parameters={"binary_data_output": binary},
            )
            result = await client.infer(
                asked.url, request, model_name="digits", headers=asked.headers
            )
            told = {output.name: output.as_numpy() for output in result.outputs}
            assert told["indices"].tolist() == asked.indices
            assert np.isfinite(told["scores"]).all()
        with pytest.raises(httpx.HTTPStatusError, match="unauthenticated"):
            await client.infer(asked.url, request, model_name="digits")
