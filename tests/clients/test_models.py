"""The models, versions, forms and limits that a server names, in both clients."""

import httpx
import numpy as np
import pytest

from fake_server import PNG, CallClient, FakeServer, infer_response
from stingy_clients import BadImage, BadInput, Client, NotFound, UnexpectedAnswer

METADATA = "/v2/models/pets"
INFER = "/v2/models/pets/infer"
SECOND = "/v2/models/pets/versions/2"


def png(last: int) -> bytes:
    return PNG + bytes([last])


def png_of(width: int, height: int, last: int) -> bytes:
    """Return the head of a PNG, which declares its size, and the byte that the server reads."""
    head = b"\0\0\0\rIHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    return PNG + head + bytes([last])


def pixels(*first: int, size: int = 4) -> np.ndarray:
    batch = np.zeros((len(first), size, size, 3), np.uint8)
    batch[:, 0, 0, 0] = first
    return batch


def two_versions() -> FakeServer:
    return FakeServer(versions=["1", "2"])


def test_models_are_those_that_the_server_lists(call: CallClient, server: FakeServer) -> None:
    server.names = ["cats", "pets"]
    cats, pets = call(server, lambda client: client.models())
    assert (cats.name, pets.name, pets.version, pets.versions) == ("cats", "pets", "1", ("1",))
    assert (pets.scores, pets.num_classes, pets.image_size) == ("log_prob", 5, (8, 8))
    assert pets.answer == "top 2 of 5 classes, log_prob at 3 decimals"
    assert (pets.max_batch, pets.max_pixels, pets.max_bytes) == (3, 2**24, 2**20)
    assert server.paths == ["/v1/models"]


@pytest.mark.parametrize("image", [png(3), pixels(3)[0]], ids=["file", "array"])
def test_only_model_need_not_be_named(call: CallClient, server: FakeServer, image: object) -> None:
    answer = call(server, lambda client: client.predict(image))
    assert (answer.model, answer.label) == ("pets", "dog")
    (batched,) = call(server, lambda client: client.predict_batch([image]))
    assert batched == answer
    indices, _ = call(server, lambda client: client.predict_tensor(pixels(3)))
    assert indices.tolist() == [[3, 4]]
    assert call(server, lambda client: client.model()).name == "pets"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "got none; the server serves no model"),
        (["cats", "pets"], "got none; the server serves 2: cats, pets$"),
        ([f"m{i}" for i in range(12)], r"the server serves 12: m0, .*m9, \.\.\.$"),
    ],
)
def test_model_must_be_named_unless_one_is_served(
    call: CallClient, server: FakeServer, names: list[str], words: str
) -> None:
    server.names = names
    with pytest.raises(BadInput, match=words):
        call(server, lambda client: client.predict(png(1)))
    assert server.charged == 0


def test_only_model_is_looked_up_once_and_when_it_is_gone(server: FakeServer) -> None:
    with Client("http://stingy.test", "sk-very-secret-key", transport=mock(server)) as client:
        client.predict(png(1))
        client.predict(png(1))
        assert server.paths.count("/v1/models") == 1
        server.next = [httpx.Response(404, json={"error": {"code": "not_found", "message": "No."}})]
        with pytest.raises(NotFound):
            client.predict(png(1))
        client.predict(png(1))
        assert server.paths.count("/v1/models") == 2


@pytest.mark.parametrize("image", [png(3), pixels(3)[0]], ids=["file", "array"])
def test_named_version_answers(call: CallClient, image: object) -> None:
    server = two_versions()
    answer = call(server, lambda client: client.predict(image, model="pets", version="2"))
    assert (answer.version, answer.label, answer.top1.score) == ("2", "dog", -0.467)
    assert server.paths == [SECOND, f"{SECOND}/infer"]
    (batched,) = call(server, lambda client: client.predict_batch([image], version="2"))
    assert batched == answer
    tensors = call(server, lambda client: client.predict_tensor(pixels(3), version="2"))
    assert tensors[0].tolist() == [[3, 4]]
    assert call(server, lambda client: client.model("pets", version="2")).version == "2"
    with pytest.raises(NotFound):
        call(server, lambda client: client.predict(image, model="pets", version="3"))


def test_answer_of_another_version_than_named_is_refused(call: CallClient) -> None:
    server = two_versions()
    other = server(httpx.Request("GET", "http://x/v2/models/pets", headers=key()))
    server.next = [other]
    with pytest.raises(UnexpectedAnswer, match="metadata of the requested model"):
        call(server, lambda client: client.model("pets", version="2"))
    server.next = [None, infer_response([[1, 2]], None, version="1", form="none")]
    with pytest.raises(UnexpectedAnswer, match="answer of the requested version"):
        call(server, lambda client: client.predict(png(1), model="pets", version="2"))


def test_metadata_of_a_model_with_versions_is_requested_once() -> None:
    server = two_versions()
    with Client("http://stingy.test", "sk-very-secret-key", transport=mock(server)) as client:
        for last in range(4):
            assert client.predict(png(last), model="pets").version == "1"
            assert client.predict(pixels(last)[0], model="pets", version="2").version == "2"
    assert server.paths.count(METADATA) == server.paths.count(SECOND) == 1


@pytest.mark.parametrize("form", ["log_prob", "prob", "logit", "rank", "none"])
@pytest.mark.parametrize("released", [False, True])
def test_answer_names_the_form_of_its_scores(
    call: CallClient, server: FakeServer, form: str, released: bool
) -> None:
    server.form, server.released = form, released
    for image in (png(1), pixels(1)[0]):
        answer = call(server, lambda client, image=image: client.predict(image, model="pets"))
        assert answer.form == form
        assert (answer.scores is None) == (form == "none")
        assert answer.withheld == 3


@pytest.mark.parametrize("released", [False, True])
def test_form_is_the_answers_own_if_it_changed(server: FakeServer, released: bool) -> None:
    server.released = released
    with Client("http://stingy.test", "sk-very-secret-key", transport=mock(server)) as client:
        assert client.predict(png(1), model="pets").form == "log_prob"
        server.form = "none"  # such as after an alarm
        for image in (png(1), pixels(1)[0]):
            answer = client.predict(image, model="pets")
            assert (answer.form, answer.scores) == ("none", None)


@pytest.mark.parametrize(("form", "score"), [("none", -0.5), ("log_prob", None)])
def test_json_answer_whose_form_misfits_its_scores_is_refused(
    call: CallClient, server: FakeServer, form: str, score: float | None
) -> None:
    entry = {"index": 1, "label": "bee"} | ({} if score is None else {"score": score})
    body = {"model": "pets", "version": "1", "scores": form, "answers": [{"classes": [entry]}]}
    server.next = [None, httpx.Response(200, json=body)]
    with pytest.raises(UnexpectedAnswer, match="unless their form is none"):
        call(server, lambda client: client.predict(png(1), model="pets"))


def test_batch_is_split_by_the_pixels_of_its_files(call: CallClient, server: FakeServer) -> None:
    server.max_batch, server.max_pixels = 9, 2000
    photos = [png_of(40, 20, last) for last in (0, 1, 2, 3, 4)]  # 800 pixels each
    answers = call(server, lambda client: client.predict_batch(photos, model="pets"))
    assert [answer.top1.index for answer in answers] == [0, 1, 2, 3, 4]
    assert server.paths == [METADATA, INFER, INFER, INFER]


def test_batch_is_split_by_the_bytes_of_a_request(call: CallClient, server: FakeServer) -> None:
    server.max_batch, server.max_bytes = 9, 1024 + 2 * 192
    images = pixels(0, 1, 2, 3, 4, size=8)  # 192 bytes each
    answers = call(server, lambda client: client.predict_batch(images, model="pets"))
    assert [answer.top1.index for answer in answers] == [0, 1, 2, 3, 4]
    assert server.paths == [METADATA, INFER, INFER, INFER]
    assert all(len(request.content) <= server.max_bytes for request in server.requests)
    with pytest.raises(BadInput, match="expected 1 to 2 images, got 5"):
        call(server, lambda client: client.predict_tensor(images, model="pets"))


def test_batch_refused_as_too_large_is_sent_in_halves(call: CallClient, server: FakeServer) -> None:
    server.max_batch, server.takes = 9, 2
    for images in (pixels(0, 1, 2, 3, 4), [png(last) for last in range(5)]):
        server.requests.clear()
        answers = call(
            server, lambda client, images=images: client.predict_batch(images, model="pets")
        )
        assert [answer.top1.index for answer in answers] == [0, 1, 2, 3, 4]
        # 5 are refused; 2 and 3; 3 are refused; 1 and 2.
        assert server.paths == [METADATA, *[INFER] * 5]
    assert server.charged == 10


def test_image_refused_alone_as_too_large_has_the_answers_before(
    call: CallClient, server: FakeServer
) -> None:
    large = httpx.Response(413, json={"error": {"code": "too_large", "message": "No."}})
    server.next = [None, large, None, large]
    with pytest.raises(BadImage) as caught:
        call(server, lambda client: client.predict_batch(pixels(3, 4), model="pets"))
    assert [answer.top1.index for answer in caught.value.answered] == [3]
    assert server.paths == [METADATA, INFER, INFER, INFER]


def test_other_refusal_of_a_batch_is_final(call: CallClient, server: FakeServer) -> None:
    server.next = [
        None,
        httpx.Response(422, json={"error": {"code": "bad_image", "message": "No"}}),
    ]
    with pytest.raises(BadImage):
        call(server, lambda client: client.predict_batch(pixels(3, 4), model="pets"))
    assert server.paths == [METADATA, INFER]


def key() -> dict[str, str]:
    return {"Authorization": "Bearer sk-very-secret-key"}


def mock(server: FakeServer) -> httpx.MockTransport:
    return httpx.MockTransport(server)
