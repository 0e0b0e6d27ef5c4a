"""Both clients, with a fake server that writes the wire format by hand."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

from fake_server import PNG, CallClient, FakeServer
from stingy_clients import (
    Answer,
    AsyncClient,
    BadInput,
    BudgetExhausted,
    Client,
    NotFound,
    ServerError,
    TransportError,
    UnexpectedAnswer,
)

MODEL = "/v2/models/pets"
INFER = "/v2/models/pets/infer"


def png(last: int) -> bytes:
    return PNG + bytes([last])


def pixels(*first: int, size: int = 4) -> np.ndarray:
    batch = np.zeros((len(first), size, size, 3), np.uint8)
    batch[:, 0, 0, 0] = first
    return batch


def top1_indices(answers: list[Answer]) -> list[int]:
    return [answer.top1.index for answer in answers]


def error_response(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": "No."}})


def binary_answer(indices: list[list[int]]) -> httpx.Response:
    data = np.array(indices, "<i8").tobytes()
    output = {
        "name": "indices",
        "datatype": "INT64",
        "shape": [len(indices), len(indices[0])],
        "parameters": {"binary_data_size": len(data)},
    }
    document = {"model_name": "pets", "model_version": "1", "outputs": [output]}
    head = json.dumps(document).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    return httpx.Response(200, content=head + data, headers=length)


def test_predict_sends_a_file_unchanged(
    call: CallClient, server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(png(2))
    answer = call(server, lambda client: client.predict(path, model="pets"))
    assert (answer.label, answer.top1.score, answer.num_classes) == ("cat", -0.467, 5)
    assert answer.indices.tolist() == [2, 3]
    assert (answer.model, answer.version) == ("pets", "1")
    assert server.paths == [MODEL, "/v1/predict/pets"]
    assert server.requests[-1].content == png(2)


@pytest.mark.parametrize(
    "image",
    [
        png(3),
        np.full((4, 4, 3), 3, np.uint8),
        np.full((4, 4), 3, np.uint8),
        Image.new("RGB", (5, 4), (3, 0, 0)),
        Image.new("L", (5, 4), 3),
    ],
    ids=["bytes", "array", "grey", "pillow", "grey pillow"],
)
def test_predict_accepts_every_kind_of_image(
    call: CallClient, server: FakeServer, image: object
) -> None:
    assert call(server, lambda client: client.predict(image, model="pets")).label == "dog"


def test_an_array_is_sent_as_one_binary_tensor(call: CallClient, server: FakeServer) -> None:
    images = pixels(1)
    call(server, lambda client: client.predict(images[0], model="pets"))
    request = server.requests[-1]
    length = int(request.headers["Inference-Header-Content-Length"])
    assert request.url.path == INFER
    assert json.loads(request.content[:length]) == {
        "inputs": [
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": [1, 4, 4, 3],
                "parameters": {"binary_data_size": 48},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    assert request.content[length:] == images.tobytes()


def test_predict_batch_keeps_the_order_of_mixed_kinds(call: CallClient, server: FakeServer) -> None:
    small, large = pixels(1, 2), pixels(3, size=6)
    images = [png(4), png(0), small[0], small[1], large[0], png(2)]
    answers = call(server, lambda client: client.predict_batch(images, model="pets"))
    assert top1_indices(answers) == [4, 0, 1, 2, 3, 2]
    assert server.paths == [MODEL, *[INFER] * 4]
    assert server.charged == 6


def test_predict_batch_sends_chunks_of_max_batch(call: CallClient, server: FakeServer) -> None:
    images = pixels(0, 1, 2, 3, 4, 0, 1)
    answers = call(server, lambda client: client.predict_batch(images, model="pets"))
    assert top1_indices(answers) == [0, 1, 2, 3, 4, 0, 1]
    assert server.paths == [MODEL, INFER, INFER, INFER]


def test_an_empty_batch_costs_nothing(call: CallClient, server: FakeServer) -> None:
    assert call(server, lambda client: client.predict_batch([], model="pets")) == []
    assert server.charged == 0


def test_an_error_has_the_answers_already_paid_for(call: CallClient, server: FakeServer) -> None:
    server.next = [None, None, error_response(429, "budget_exhausted")]
    with pytest.raises(BudgetExhausted) as caught:
        call(server, lambda client: client.predict_batch(pixels(*range(5)), model="pets"))
    assert top1_indices(caught.value.answered) == [0, 1, 2]
    assert len(server.requests) == 3


def test_nothing_is_sent_if_one_image_is_bad(call: CallClient, server: FakeServer) -> None:
    with pytest.raises(BadInput):
        call(server, lambda client: client.predict_batch([png(1), b"GIF89a"], model="pets"))
    assert server.requests == []


def test_predict_tensor_is_one_request(call: CallClient, server: FakeServer) -> None:
    def predict(client: Client) -> object:
        return client.predict_tensor(pixels(1, 4), model="pets")

    indices, scores = call(server, predict)
    assert (indices.dtype, scores.dtype) == (np.int64, np.float32)
    assert indices.tolist() == [[1, 2], [4, 0]]
    assert scores.tolist() == np.array([[-0.467, -0.985]] * 2, np.float32).tolist()
    assert server.paths == [MODEL, INFER]
    assert indices.flags.writeable
    assert scores.flags.writeable


@pytest.mark.parametrize("count", [0, 4])
def test_predict_tensor_refuses_a_wrong_number_of_images(
    call: CallClient, server: FakeServer, count: int
) -> None:
    with pytest.raises(BadInput, match=f"expected 1 to 3 images, got {count}"):
        call(server, lambda client: client.predict_tensor(pixels(*[0] * count), model="pets"))
    assert server.charged == 0


def test_scores_are_none_if_the_policy_has_none(call: CallClient, server: FakeServer) -> None:
    server.form = "none"
    assert call(server, lambda client: client.predict(png(1), model="pets")).scores is None
    assert call(server, lambda client: client.predict(pixels(1)[0], model="pets")).scores is None
    assert call(server, lambda client: client.predict_tensor(pixels(1), model="pets"))[1] is None


def test_file_and_tensor_requests_give_the_same_answer(
    call: CallClient, server: FakeServer
) -> None:
    by_file = call(server, lambda client: client.predict(png(3), model="pets"))
    (by_tensor,) = call(server, lambda client: client.predict_batch([png(3)], model="pets"))
    assert by_file == by_tensor


def test_model_metadata_is_requested_once(server: FakeServer) -> None:
    with Client("http://stingy.test", "sk-very-secret-key", transport=mock(server)) as client:
        info = client.model("pets")
        client.predict(png(1), model="pets")
        assert client.model("pets") is info
    assert server.paths.count(MODEL) == 1
    assert (info.num_classes, info.support, info.scores, info.max_batch) == (5, 2, "log_prob", 3)
    assert info.image_size == (8, 8)


def test_a_new_model_version_refreshes_the_metadata(server: FakeServer) -> None:
    with Client("http://stingy.test", "sk-very-secret-key", transport=mock(server)) as client:
        client.predict(pixels(1)[0], model="pets")
        server.version, server.labels = "2", ["b", "c", "d", "e", "f", "g"]
        answer = client.predict(pixels(5)[0], model="pets")
        assert (answer.version, answer.label, answer.num_classes) == ("2", "g", 6)
        assert client.predict(png(5), model="pets").version == "2"
    assert server.paths.count(MODEL) == 2
    assert server.charged == 3


def test_usage_counts_images(call: CallClient, server: FakeServer) -> None:
    call(server, lambda client: client.predict_batch(pixels(0, 1), model="pets"))
    usage = call(server, lambda client: client.usage())
    assert (usage.key, usage.budget, usage.used, usage.remaining) == ("abcd1234", 500, 2, 498)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (200, True),
        (503, False),
        (httpx.ConnectError("refused"), False),
        (httpx.ReadTimeout("silent"), False),
    ],
)
def test_ready_sends_one_request(
    call: CallClient, server: FakeServer, outcome: int | Exception, expected: bool
) -> None:
    server.next = [httpx.Response(outcome) if isinstance(outcome, int) else outcome]
    assert call(server, lambda client: client.ready()) is expected
    assert server.paths == ["/v2/health/ready"]


def test_ready_raises_if_the_server_is_not_stingy(call: CallClient, server: FakeServer) -> None:
    server.next = [httpx.Response(404)]
    with pytest.raises(NotFound):
        call(server, lambda client: client.ready())


def test_a_post_without_a_response_is_never_retried(call: CallClient, server: FakeServer) -> None:
    for failure in (httpx.ReadTimeout("x"), httpx.ReadError("x"), httpx.ConnectError("x")):
        server.requests.clear()
        server.next = [None, failure]
        with pytest.raises(TransportError):
            call(server, lambda client: client.predict(png(1), model="pets"))
        assert server.paths == [MODEL, "/v1/predict/pets"]


def test_a_post_to_a_busy_server_is_retried(call: CallClient, server: FakeServer) -> None:
    busy = httpx.Response(503, headers={"Retry-After": "0"})
    server.next = [None, busy, busy]
    assert call(server, lambda client: client.predict(png(1), model="pets")).label == "bee"
    assert server.paths.count("/v1/predict/pets") == 3


def test_the_client_waits_before_a_retry(
    call: CallClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    asynchronous = SimpleNamespace(sleep=sleep)
    monkeypatch.setattr("stingy_clients.client.time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr("stingy_clients.aio.asyncio", asynchronous)
    server.next = [None, httpx.Response(503, headers={"Retry-After": "7"})]
    call(server, lambda client: client.predict(png(1), model="pets"))
    assert waits == [0, 0, 7]


def test_a_refusal_by_the_gate_is_not_retried(call: CallClient, server: FakeServer) -> None:
    server.next = [None, error_response(500, "refused")]
    with pytest.raises(ServerError, match="500 refused: No"):
        call(server, lambda client: client.predict(png(1), model="pets"))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"model": "others"},
        {"answers": []},
        {"answers": [{"classes": []}]},
        {"answers": [{"classes": [{"index": 5, "label": "x", "score": 0}]}]},
        {"answers": [{"classes": [{"index": -1, "label": "x", "score": 0}]}]},
        {"answers": [{"classes": [{"index": "1", "label": "x", "score": 0}]}]},
        {"answers": [{"classes": [{"index": 1, "label": "x", "score": 0}] * 2}]},
        {"answers": [{"classes": [{"index": 1, "label": "x", "score": float("nan")}]}]},
        {
            "answers": [
                {"classes": [{"index": 1, "label": "x"}, {"index": 2, "label": "y", "score": 0}]}
            ]
        },
    ],
)
def test_a_faulty_json_answer_is_refused(
    call: CallClient, server: FakeServer, change: dict[str, object]
) -> None:
    answers = [{"classes": [{"index": 1, "label": "bee", "score": -0.5}]}]
    body = {"model": "pets", "version": "1", "answers": answers} | change
    server.next = [None, httpx.Response(200, content=json.dumps(body))]
    with pytest.raises(UnexpectedAnswer):
        call(server, lambda client: client.predict(png(1), model="pets"))


@pytest.mark.parametrize("indices", [[[5, 0]], [[0, 0]], [[-1, 0]]])
def test_a_binary_answer_with_bad_indices_is_refused(
    call: CallClient, server: FakeServer, indices: list[list[int]]
) -> None:
    server.next = [None, binary_answer(indices)]
    with pytest.raises(UnexpectedAnswer):
        call(server, lambda client: client.predict_tensor(pixels(1), model="pets"))


def test_metadata_of_another_model_is_refused(call: CallClient, server: FakeServer) -> None:
    server.next = [httpx.Response(200, json=server.metadata("1") | {"name": "others"})]
    with pytest.raises(UnexpectedAnswer):
        call(server, lambda client: client.model("pets"))


def test_a_model_name_is_quoted_as_one_path_segment(call: CallClient, server: FakeServer) -> None:
    with pytest.raises(NotFound):
        call(server, lambda client: client.model("a/../b?c"))
    assert server.requests[0].url.raw_path == b"/v2/models/a%2F..%2Fb%3Fc"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_key_is_never_shown(kind: type[Client] | type[AsyncClient]) -> None:
    client = kind("http://stingy.test", "sk-very-secret-key")
    assert repr(client) == f"{kind.__name__}('http://stingy.test')"
    assert "secret" not in f"{client} {vars(client)}"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("stingy.test", "sk-secret"),
        ("ftp://stingy.test", "sk-secret"),
        ("http://", "sk-secret"),
        ("http://stingy.test:port", "sk-secret"),
        ("http://user:pass@stingy.test", "sk-secret"),
        ("http://stingy.test", ""),
        ("http://stingy.test", "sk secret"),
        ("http://stingy.test", "sk-secret\r\nX: y"),
        ("http://stingy.test", "sk-sécret"),
    ],
)
def test_a_bad_url_or_key_is_refused_and_not_shown(
    kind: type[Client] | type[AsyncClient], url: str, key: str
) -> None:
    with pytest.raises(BadInput) as caught:
        kind(url, key)
    assert "cret" not in str(caught.value)


def test_negative_retries_are_refused() -> None:
    with pytest.raises(BadInput, match="expected retries >= 0, got -1"):
        Client("http://stingy.test", "sk", retries=-1)


def test_a_url_may_have_a_path(server: FakeServer) -> None:
    client = Client("http://stingy.test/api/", "sk-very-secret-key", transport=mock(server))
    with client, pytest.raises(NotFound):
        client.usage()
    assert server.paths == ["/api/v1/usage"]


def mock(server: FakeServer) -> httpx.MockTransport:
    return httpx.MockTransport(server)


def test_a_closed_client_raises_bad_input(server: FakeServer) -> None:
    transport = httpx.MockTransport(server)
    with Client("http://stingy.test", "key", transport=transport) as client:
        pass
    for method in (client.usage, client.ready, lambda: client.predict(png(1), model="pets")):
        with pytest.raises(BadInput, match="expected an open client, got a closed one"):
            method()

    async def use_closed() -> None:
        async with AsyncClient("http://stingy.test", "key", transport=transport) as client:
            pass
        await client.usage()

    with pytest.raises(BadInput, match="expected an open client, got a closed one"):
        asyncio.run(use_closed())
    assert server.requests == []


def test_file_that_is_no_authority_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "ca.pem"
    other.write_bytes(b"no certificate")
    for ca in (other, tmp_path / "none", tmp_path, "\0"):
        for kind in (Client, AsyncClient):
            with pytest.raises(BadInput, match="expected ca to be a file of certificates"):
                kind("https://stingy.test", "key", ca=ca)
