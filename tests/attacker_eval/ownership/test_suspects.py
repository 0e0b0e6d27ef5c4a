"""Suspects over real sockets and in files: how they are queried, and every way they may fail."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exhibits import make_exhibit, suspect_server
from serving import png, random_images
from stingy_attacker_eval.errors import SuspectError
from stingy_attacker_eval.ownership.suspects import HttpSuspect, OipSuspect, PredictionFile
from stingy_attacker_eval.ownership.template import Template, read_template
from stingy_clients.documents.exhibit import Item

PIXELS = random_images(1, size=2)[0]
PNG = png(PIXELS)
Reply = Callable[[str, bytes], tuple[int, dict[str, str], bytes]]


@pytest.fixture(scope="module")
def item(tmp_path_factory: pytest.TempPathFactory) -> Item:
    return make_exhibit(tmp_path_factory.mktemp("e") / "e", marked=1, controls=0).items[0]


def in_json(document: object, status: int = 200, **headers: str) -> Reply:
    body = json.dumps(document).encode()
    return lambda path, content: (status, headers, body)


def query_http(url: str, item: Item, *, key: str | None = None, **fields: object) -> object:
    template = Template.model_validate({"label": "label", **fields})
    return HttpSuspect(url, template, key=key, timeout=1.0).answer(item, PNG)


@pytest.mark.parametrize("send", ["raw", "json", "form"])
def test_image_is_sent_as_the_template_says(item: Item, send: str) -> None:
    body = '{"instances": [{"b64": "$IMAGE"}]}'
    with suspect_server(in_json({"label": "class 3"})) as server:
        found = query_http(server.url, item, send=send, body=body, field="picture")
    assert found == "class 3"
    ((_, headers, content),) = server.requests
    if send == "raw":
        assert (headers["Content-Type"], content) == ("image/png", PNG)
    elif send == "json":
        text = base64.b64encode(PNG).decode()
        assert json.loads(content) == {"instances": [{"b64": text}]}
    else:
        assert headers["Content-Type"].startswith("multipart/form-data")
        assert b'name="picture"' in content
        assert PNG in content


def test_label_is_found_by_its_path(item: Item) -> None:
    document = {"predictions": [{"scores": [0.1, 0.9]}]}
    with suspect_server(in_json(document)) as server:
        assert query_http(server.url, item, label="predictions[0].scores") == [0.1, 0.9]
        for path in ("predictions[1].scores", "predictions.scores", "predictions[0].label"):
            with pytest.raises(SuspectError, match="got none there"):
                query_http(server.url, item, label=path)


def test_Z4_key_is_in_the_header_and_in_no_name(item: Item) -> None:
    headers = {"X-Key": "token $KEY"}
    with suspect_server(in_json({"label": 1})) as server:
        url = server.url.replace("http://", "http://user:secret-2@") + "?token=secret-3"
        template = Template(label="label", headers=headers)
        suspect = HttpSuspect(url, template, key="secret-1", timeout=1.0)
        suspect.answer(item, PNG)
        assert server.requests[0][1]["X-Key"] == "token secret-1"
        assert suspect.name == server.url
        with pytest.raises(SuspectError, match="--key"):
            HttpSuspect(url, template, key=None, timeout=1.0)


def test_Z4_redirect_is_not_followed(item: Item) -> None:
    with (
        suspect_server(in_json({"label": 1})) as elsewhere,
        suspect_server(in_json({}, 307, Location=elsewhere.url)) as server,
        pytest.raises(SuspectError, match="got 307"),
    ):
        query_http(server.url, item)
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (in_json({}, 403), "status 200 from the suspect, got 403"),
        (lambda path, body: (200, {}, b"<html>"), "expected JSON"),
        (lambda path, body: (200, {}, b"[" * 2**20), "expected JSON|got more"),
        (lambda path, body: (200, {}, b" " * (2**20 + 1)), "got more"),
        (lambda path, body: (200, {"Content-Length": "9"}, b"{}"), "expected a reply"),
    ],
)
def test_failing_suspect_is_named_in_a_sentence(item: Item, reply: Reply, text: str) -> None:
    with suspect_server(reply) as server, pytest.raises(SuspectError, match=text):
        query_http(server.url, item)


def test_absent_suspect_is_named_in_a_sentence(item: Item) -> None:
    with pytest.raises(SuspectError, match="got ConnectError"):
        query_http("http://127.0.0.1:9/x", item)
    for url in ("ftp://x/y", "http://", "http://x:y"):
        with pytest.raises(SuspectError, match="expected a URL"):
            query_http(url, item)


def test_busy_suspect_is_tried_three_times(item: Item, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    statuses = [503, 429, 200, 429, 429, 429]

    def reply(path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        return statuses.pop(0), {"Retry-After": "9999"}, b'{"label": 1}'

    with suspect_server(reply) as server:
        assert query_http(server.url, item) == 1
        with pytest.raises(SuspectError, match="got 429"):
            query_http(server.url, item)
    assert [wait for wait in waits if wait >= 1] == [30.0] * 4


@pytest.mark.parametrize("trickles", [False, True])
def test_Z4_slow_suspect_is_given_up_at_the_deadline(item: Item, trickles: bool) -> None:
    def reply(path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if not trickles:
            time.sleep(0.6)
        return 200, {}, b'{"label": "cat"}' + b" " * 24

    with suspect_server(reply, pause=0.05 if trickles else 0.0) as server:
        suspect = HttpSuspect(server.url, Template(label="label"), key=None, timeout=0.3)
        with pytest.raises(SuspectError, match=r"within 0\.3 seconds"):
            suspect.answer(item, PNG)


def oip(datatype: str, shape: list[int], output: dict[str, object]) -> Reply:
    metadata = {"inputs": [{"name": "image", "datatype": datatype, "shape": shape}]}
    described = json.dumps(metadata).encode()
    answered = json.dumps({"outputs": [output]}).encode()
    return lambda path, body: (200, {}, answered if path.endswith("/infer") else described)


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ({"datatype": "INT64", "shape": [1, 3], "data": [4, 2, 9]}, 4),
        ({"datatype": "FP32", "shape": [1, 2], "data": [[0.25, 0.75]]}, [0.25, 0.75]),
        ({"datatype": "BYTES", "shape": [1, 1], "data": ["0.9:3:cat"]}, 3),
        ({"datatype": "BYTES", "shape": [1], "data": ["cat"]}, ["cat"]),
    ],
)
def test_open_inference_suspect_gets_pixels(
    item: Item, output: dict[str, object], answer: object
) -> None:
    with suspect_server(oip("UINT8", [-1, -1, -1, 3], output)) as server:
        suspect = OipSuspect(server.url, model="pets", key="k-1", timeout=1.0)
        assert suspect.answer(item, PNG) == answer
        assert suspect.answer(item, PNG) == answer
    paths = [path for path, _, _ in server.requests]
    assert paths == ["/classify/v2/models/pets", *["/classify/v2/models/pets/infer"] * 2]
    assert server.requests[-1][1]["Authorization"] == "Bearer k-1"
    (tensor,) = json.loads(server.requests[-1][2])["inputs"]
    assert (tensor["shape"], tensor["data"]) == ([1, 2, 2, 3], PIXELS.ravel().tolist())


def test_open_inference_suspect_gets_files(item: Item) -> None:
    reply = oip("BYTES", [-1], {"datatype": "INT64", "shape": [1, 1], "data": [4]})
    with suspect_server(reply) as server:
        assert OipSuspect(server.url, model="pets", key=None, timeout=1.0).answer(item, PNG) == 4
    (tensor,) = json.loads(server.requests[-1][2])["inputs"]
    assert base64.b64decode(tensor["data"][0]) == PNG


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (oip("FP32", [-1, 3, 2, 2], {}), "preprocessing is unknown"),
        (in_json({"inputs": []}), "expected the metadata"),
        (oip("UINT8", [-1, -1, -1, 3], {"datatype": "INT64", "data": []}), "expected an output"),
        (oip("UINT8", [-1, -1, -1, 3], {"datatype": "INT64"}), "expected an output"),
    ],
)
def test_other_open_inference_models_are_refused(item: Item, reply: Reply, text: str) -> None:
    with suspect_server(reply) as server, pytest.raises(SuspectError, match=text):
        OipSuspect(server.url, model="pets", key=None, timeout=1.0).answer(item, PNG)


@pytest.mark.parametrize("form", ["csv", "json", "labels", "scores"])
def test_predictions_are_read_from_files(tmp_path: Path, item: Item, form: str) -> None:
    path = tmp_path / f"p.{form if form in ('csv', 'json') else 'npz'}"
    ids = np.array([item.id, "e" * 32])
    if form == "csv":
        path.write_text(f"label,id\ncat,{item.id}\n")
    elif form == "json":
        path.write_text(json.dumps({item.id: "cat"}))
    elif form == "labels":
        np.savez(path, ids=ids, labels=np.array(["cat", "dog"]))
    else:
        np.savez(path, ids=ids, scores=np.array([[0.25, 0.75], [1.0, 0.0]]))
    expected = [0.25, 0.75] if form == "scores" else "cat"
    assert PredictionFile(path).answer(item, PNG) == expected
    missing = item.model_copy(update={"id": "f" * 32})
    assert PredictionFile(path).answer(missing, PNG) is None


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("p.txt", "", "expected a suspect's URL"),
        ("p.csv", "a,b\n1,2\n", "columns id and label"),
        ("p.csv", "id,label\na,1\na,2\n", "each id once"),
        ("p.json", "[1]", "one object"),
        ("p.json", '{"a": 1, "a": 2}', "each id once"),
        ("p.json", "{", "expected predictions"),
        ("p.json", "[" * 100_000, "expected predictions"),
        ("p.npz", "no zip", "npz file without pickles"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: str, text: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SuspectError, match=text):
        PredictionFile(tmp_path / name)
    with pytest.raises(SuspectError, match=r"got none|URL"):
        PredictionFile(tmp_path / f"absent-{name}")


def test_template_faults_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text('send = "post"\nextra = 1\n')
    with pytest.raises(SuspectError) as caught:
        read_template(path)
    assert len(caught.value.faults) == 3
    for text, fault in (
        ('label = "a..b"', "label like"),
        ('label = "a"\nsend = "json"\nbody = "{}"', "in body"),
        ('label = "a"\nsend = "json"\nbody = "[$IMAGE"', "JSON text"),
        ("label = ", "TOML"),
    ):
        path.write_text(text)
        with pytest.raises(SuspectError, match=fault):
            read_template(path)
