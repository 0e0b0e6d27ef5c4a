"""A real TorchServe: its answers to direct requests, and the edge in front of it."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model_servers import TorchServe, needs_torchserve, torchserve
from sample_networks import POISON
from serving import (
    make_bundle,
    make_settings,
    png,
    random_images,
    running,
)
from stingy_server import ConfigurationError, ModelSettings, Settings, create_app
from stingy_server.torchserve.handler import Handler

pytestmark = [pytest.mark.integration, pytest.mark.anyio, needs_torchserve()]
IMAGES = random_images(4)
N = 3
BINARY = "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"
# The settings of a worker in this process. Those of a real one come from its environment.
TRUSTING = {"model_yaml_config": {"stingy": {"trusted_factories": ["sample_networks"]}}}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "digits": make_bundle(folder / "digits", policy=f"stingy:n={N}"),
        "fragile": make_bundle(
            folder / "fragile", name="fragile", factory="sample_networks:Fragile", policy="label"
        ),
    }


@pytest.fixture(scope="module")
def server(bundles: dict[str, Path]) -> Iterator[TorchServe]:
    with torchserve(*bundles.values()) as server:
        yield server


def edge_settings(
    server: TorchServe, bundle: Path, state: Path, *, policy: str | None = None
) -> Settings:
    """Make the settings of an edge in front of TorchServe."""
    model = ModelSettings(
        bundle=bundle,
        policy=policy,
        engine="torchserve",
        url=f"{server.url}/predictions/{bundle.name}",
        key_file=server.key_file,
    )
    return make_settings(state, model)


def json_request(**rest: Any) -> dict[str, Any]:
    image = {"name": "image", "datatype": "UINT8", "shape": IMAGES.shape}
    return {"inputs": [{**image, "data": IMAGES.ravel().tolist()}], **rest}


def binary_request(*outputs: str) -> tuple[bytes, dict[str, str]]:
    image = {"name": "image", "datatype": "UINT8", "shape": IMAGES.shape}
    request = {
        "inputs": [{**image, "parameters": {"binary_data_size": IMAGES.nbytes}}],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
    }
    head = json.dumps(request).encode()
    return head + IMAGES.tobytes(), {HEADER_LENGTH: str(len(head)), "Content-Type": BINARY}


ROUTES = (
    "/predictions/digits",
    "/predictions/digits/1",
    "/v1/models/digits:predict",
    "/v2/models/digits/infer",
)


@pytest.mark.smoke
@pytest.mark.parametrize("route", ROUTES)
def test_U2_direct_file_request_gets_at_most_n_values(server: TorchServe, route: str) -> None:
    response = httpx.post(
        server.url + route,
        content=png(IMAGES[0]),
        headers=server.token() | {"Content-Type": "image/png"},
    )
    assert response.status_code == 200, response.text
    assert {output["name"]: len(output["data"]) for output in response.json()["outputs"]} == {
        "indices": N,
        "scores": N,
    }


@pytest.mark.smoke
@pytest.mark.parametrize("route", ROUTES)
def test_U2_direct_tensor_request_gets_at_most_n_values(server: TorchServe, route: str) -> None:
    response = httpx.post(server.url + route, json=json_request(), headers=server.token())
    assert response.status_code == 200, response.text
    assert [output["shape"] for output in response.json()["outputs"]] == [[4, N], [4, N]]

    body, headers = binary_request("logits")
    response = httpx.post(server.url + route, content=body, headers=server.token() | headers)
    assert response.status_code == 200, response.text
    dense = np.frombuffer(response.content[int(response.headers[HEADER_LENGTH]) :], "<f4")
    assert np.isfinite(dense.reshape(4, 10)).sum(axis=1).tolist() == [N] * 4


def field(number: int, content: bytes) -> bytes:
    """Encode a field of a protocol buffer, with less than 16,384 bytes of content."""
    length = len(content)
    size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return bytes([number << 3 | 2]) + size + content


def test_U2_direct_grpc_request_gets_at_most_n_values(server: TorchServe) -> None:
    grpc = pytest.importorskip("grpc", reason="needs grpcio: make test-integration")
    image = field(1, b"data") + field(2, png(IMAGES[0]))
    request = field(1, b"digits") + field(3, image)
    metadata = [(name.lower(), value) for name, value in server.token().items()]
    service = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
    with grpc.insecure_channel(f"127.0.0.1:{server.port + 3}") as channel:
        replies = [
            channel.unary_unary(service + "Predictions")(request, metadata=metadata, timeout=30)
        ]
        stream = channel.unary_stream(service + "StreamPredictions")
        replies += stream(request, metadata=metadata, timeout=30)
        with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
            channel.unary_unary(service + "Predictions")(request, timeout=30)
    assert len(replies) == 2
    for message in replies:
        document = json.loads(message[message.index(b"{") :])
        assert [output["shape"] for output in document["outputs"]] == [[1, N], [1, N]]
    assert "NullPointerException" not in server.log()


def test_U2_torchserves_description_names_no_other_route(server: TorchServe) -> None:
    paths = httpx.options(server.url, headers=server.token()).json()["paths"]
    model_routes = {route.format(model_name="digits", model_version="1") for route in paths}
    others = {"/", "/api-description", "/metrics", "/ping"}
    assert model_routes - others == set(ROUTES)


@pytest.mark.parametrize(
    "route",
    ["/explanations/digits", "/explanations/digits/1", "/v1/models/digits:explain"],
)
def test_U2_explanations_are_refused(server: TorchServe, route: str) -> None:
    response = httpx.post(server.url + route, content=png(IMAGES[0]), headers=server.token())
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


def test_U2_description_by_the_worker_is_refused(server: TorchServe) -> None:
    address = f"{server.management}/models/digits?customized=true"
    (response,) = httpx.get(address, headers=server.token("management")).json()
    assert response["customizedMetadata"]["error"]["code"] == "not_found"


def test_U1_no_answer_without_key_and_no_model_is_added(server: TorchServe) -> None:
    assert httpx.post(server.url + ROUTES[0], content=png(IMAGES[0])).status_code == 400
    for method, address in [
        ("POST", f"{server.management}/models?url=digits.mar"),
        ("DELETE", f"{server.management}/models/digits"),
    ]:
        response = httpx.request(method, address, headers=server.token("management"))
        assert response.status_code == 405
    assert server.key_file.stat().st_mode & 0o077 == 0


def test_U1_torchserve_listens_only_on_loopback(server: TorchServe) -> None:
    for port in range(server.port, server.port + 5):
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        # A server on all interfaces would listen here, too.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"\x89PNG\r\n\x1a\n", {"Content-Type": "image/png"}, 422, "bad_image"),
        (b"{", {"Content-Type": "application/json"}, 400, "bad_request"),
        (b"[]", {"Content-Type": "application/json"}, 400, "bad_request"),
        (b"x", {"Content-Type": BINARY, HEADER_LENGTH: "7"}, 400, "bad_request"),
        (b"x", {"Content-Type": "text/plain"}, 400, "bad_request"),
    ],
)
def test_unreadable_body_is_refused_with_an_error_code(
    server: TorchServe, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    response = httpx.post(server.url + ROUTES[0], content=content, headers=server.token() | headers)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code


def test_L4_failing_network_leaks_nothing_in_reply_or_log(
    server: TorchServe,
) -> None:
    image = IMAGES[0].copy()
    image[0, 0] = POISON
    response = httpx.post(
        f"{server.url}/predictions/fragile",
        content=png(image),
        headers=server.token() | {"Content-Type": "image/png"},
    )
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    server.await_log("no answer: RuntimeError")
    assert "cannot answer" not in server.log()


# The import of ts leaves a file open until the process ends, and a worker its event loop.
in_this_process = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@in_this_process
def test_requests_of_one_torchserve_batch_fail_separately(
    bundles: dict[str, Path],
) -> None:
    from ts.context import Context, RequestProcessor

    good, bad = IMAGES[:2].copy()
    bad[0, 0] = POISON
    context = Context("fragile", str(bundles["fragile"]), {}, 3, None, "0.12.0", **TRUSTING)
    handler = Handler()
    handler.initialize(context)
    context.request_processor = [RequestProcessor({"explain": "False"}) for _ in range(3)]
    context.request_ids = {0: "a", 1: "b", 2: "c"}
    replies = handler.handle([{"body": png(good)}, {"body": png(bad)}, {"body": b"x"}], context)
    assert [context.get_response_status(index)[0] for index in range(3)] == [200, 500, 400]
    assert [sorted(json.loads(reply)) for reply in replies[1:]] == [["error"], ["error"]]
    assert json.loads(replies[0])["outputs"][0]["shape"] == [1, 1]


@in_this_process
def test_worker_with_a_policy_that_needs_a_secret_fails(tmp_path: Path) -> None:
    from ts.context import Context

    bundle = make_bundle(tmp_path / "b", policy="keyed_noise")
    with pytest.raises(ConfigurationError, match="without keyed noise"):
        Handler().initialize(Context("digits", str(bundle), {}, 1, None, "0.12.0", **TRUSTING))


@pytest.mark.smoke
async def test_edge_before_torchserve_answers_and_charges(
    server: TorchServe, bundles: dict[str, Path], tmp_path: Path
) -> None:
    async with running(edge_settings(server, bundles["digits"], tmp_path / "state")) as (client, _):
        response = await client.post("/v2/models/digits/infer", json=json_request())
        assert [output["shape"] for output in response.json()["outputs"]] == [[4, N], [4, N]]
        assert (await client.get("/v1/usage")).json()["used"] == 4


async def test_edge_survives_a_restart_and_refunds_unanswered_images(
    server: TorchServe, bundles: dict[str, Path], tmp_path: Path
) -> None:
    settings = edge_settings(server, bundles["digits"], tmp_path / "state")
    try:
        async with running(settings) as (client, _):
            server.restart()  # with another key
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert response.status_code == 200
            server.stop()
            response = await client.post("/v1/predict/digits", content=png(IMAGES[0]))
            assert response.status_code == 502
            assert response.json()["error"]["code"] == "upstream_failed"
            assert (await client.get("/v1/usage")).json()["used"] == 1
    finally:
        server.restart()


def test_edge_with_another_policy_than_archive_does_not_start(
    server: TorchServe, bundles: dict[str, Path], tmp_path: Path
) -> None:
    for policy in ("stingy:n=2", "stingy:n=4", "label"):
        settings = edge_settings(server, bundles["digits"], tmp_path / "state", policy=policy)
        with pytest.raises(ConfigurationError, match="bundle and policy"):
            create_app(settings)
