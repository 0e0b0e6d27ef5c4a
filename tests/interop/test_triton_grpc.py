"""Triton's clients of gRPC, which know nothing of Stingy, get the answers of our own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpc_answers import IMAGES, Expected, N, grpc_answers

pytestmark = [
    pytest.mark.anyio,
    # The generated code of these clients is older than the library that reads it.
    pytest.mark.filterwarnings("default"),
]
triton = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient and grpcio")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    with grpc_answers(tmp_path_factory.mktemp("interop")) as server:
        yield server


def image_input() -> Any:
    image = triton.InferInput("image", list(IMAGES.shape), "UINT8")
    image.set_data_from_numpy(IMAGES)
    return image


def test_tritons_client_gets_the_same_answers(expected: Expected) -> None:
    with triton.InferenceServerClient(expected.address) as client:
        headers = expected.headers
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits", headers=headers)
        assert client.get_server_metadata(headers=headers).name == "stingy"
        metadata = client.get_model_metadata("digits", headers=headers, as_json=True)
        assert [each["name"] for each in metadata["outputs"]] == ["indices", "scores", "logits"]
        config = client.get_model_config("digits", headers=headers).config
        assert (config.name, [*config.output[0].dims]) == ("digits", [N])
        index = client.get_model_repository_index(headers=headers)
        assert [(each.name, each.state) for each in index.models] == [("digits", "READY")]
        result = client.infer("digits", [image_input()], headers=headers, request_id="mine")
        assert result.as_numpy("indices").tolist() == expected.indices
        assert result.get_response().id == "mine"
        dense = [triton.InferRequestedOutput("logits")]
        result = client.infer("digits", [image_input()], outputs=dense, headers=headers)
        assert np.array_equal(result.as_numpy("logits"), [a.dense() for a in expected.answers])
        classes = [triton.InferRequestedOutput("scores", class_count=2)]
        result = client.infer("digits", [image_input()], outputs=classes, headers=headers)
        texts = result.as_numpy("scores")
        assert [text.decode().split(":")[1] for text in texts[:, 0]] == [
            str(row[0]) for row in expected.indices
        ]
        statistics = client.get_inference_statistics("digits", headers=headers)
        assert statistics.model_stats[0].inference_count >= 3 * len(IMAGES)
        with pytest.raises(triton.InferenceServerException) as error:
            client.infer("digits", [image_input()])  # no key
        assert error.value.status() == "StatusCode.UNAUTHENTICATED"
        with pytest.raises(triton.InferenceServerException) as error:
            client.load_model("digits", headers=headers)
        assert error.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_tritons_asyncio_client_gets_the_same_answers(expected: Expected) -> None:
    from tritonclient.grpc import aio

    async with aio.InferenceServerClient(expected.address) as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits", headers=expected.headers)
        result = await client.infer("digits", [image_input()], headers=expected.headers)
        assert result.as_numpy("indices").tolist() == expected.indices
        with pytest.raises(triton.InferenceServerException, match="Expected a model"):
            await client.infer("other", [image_input()], headers=expected.headers)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    with grpc_answers(tmp_path_factory.mktemp("secure"), tls=True) as server:
        yield server


def test_T1_tritons_client_gets_the_same_answers_over_tls(secure: Expected) -> None:
    trusted = {"ssl": True, "root_certificates": str(secure.ca)}
    with triton.InferenceServerClient(secure.address, **trusted) as client:
        assert client.is_server_ready()
        result = client.infer("digits", [image_input()], headers=secure.headers)
        assert result.as_numpy("indices").tolist() == secure.indices
    with triton.InferenceServerClient(secure.address) as plain:
        with pytest.raises(triton.InferenceServerException) as error:
            plain.is_server_live()
        assert error.value.status() == "StatusCode.UNAVAILABLE"


async def test_T1_tritons_asyncio_client_works_over_tls(secure: Expected) -> None:
    from tritonclient.grpc import aio

    trusted = {"ssl": True, "root_certificates": str(secure.ca)}
    async with aio.InferenceServerClient(secure.address, **trusted) as client:
        result = await client.infer("digits", [image_input()], headers=secure.headers)
        assert result.as_numpy("indices").tolist() == secure.indices


def test_documented_example_runs(expected: Expected) -> None:
    page = (Path(__file__).parents[2] / "docs" / "query.md").read_text(encoding="utf-8")
    (example,) = [
        block.partition("```")[0]
        for block in page.split("```python\n")[1:]
        if "tritonclient.grpc" in block.partition("```")[0]
    ]
    names: dict[str, Any] = {"key": expected.key, "pixels": IMAGES}
    example = example.replace("127.0.0.1:8081", expected.address).replace('"normal"', '"digits"')
    exec(compile(example, "query.md", "exec"), names)  # noqa: S102
    assert names["answer"].as_numpy("indices").tolist() == expected.indices
