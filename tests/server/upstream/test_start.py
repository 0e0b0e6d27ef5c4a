"""Settings of an upstream that do not fit are faults before the server listens."""

import json
import socket
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal

import pytest

from hostile import Behaviour, document, says, tensor, upstream
from serving import make_bundle, make_settings
from stingy_server import ConfigurationError, ModelSettings, create_app
from stingy_server.settings import TensorSettings
from upstream_edge import GOOD, edge

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("engine", ["oip", "torchserve"])
async def test_P5_P6_strict_mode_that_an_engine_lacks_is_a_fault(
    tmp_path: Path, engine: Literal["oip", "torchserve"]
) -> None:
    bundle = make_bundle(tmp_path / "bundle", policy="stingy:n=2")
    with upstream(says(GOOD)) as url:
        model = ModelSettings(bundle=bundle, engine=engine, url=url, timeout_s=1.0)
        with pytest.raises(ConfigurationError) as error:
            create_app(make_settings(tmp_path / "state", model, strict=True))
    assert any(
        fault.startswith(f"digits: strict cannot be kept by the engine {engine}:")
        for fault in error.value.faults
    )


def says_in_turn(answers: Iterator[bytes]) -> Behaviour:
    def behaviour(connection: socket.socket, request: bytes) -> None:
        says(next(answers))(connection, request)

    return behaviour


def rows(*classes: tuple[int, int]) -> bytes:
    """Encode an answer with the best two classes of each row."""
    return document(
        tensor("indices", "INT64", [len(classes), 2], [index for row in classes for index in row]),
        tensor("scores", "FP32", [len(classes), 2], [-0.105, -2.304] * len(classes)),
    )


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ([rows((3, 7)), rows((3, 7)), rows((4, 7), (1, 2))], "depends on one image"),
        ([rows((3, 7)), rows((7, 3)), rows((3, 7), (1, 2))], "the same answer to the same image"),
        ([rows((3, 7)), rows((3, 7)), rows((3, 7))], "failed on a trial image"),
        ([rows((3, 7)), rows((3, 7)), rows((3, 7), (1, 2))], None),
    ],
    ids=["other beside an image", "other the second time", "one row for two", "good"],
)
def test_P5_upstream_is_tried_twice_and_beside_another_image(
    tmp_path: Path, answers: list[bytes], fault: str | None
) -> None:
    with upstream(says_in_turn(chain(answers, repeat(GOOD)))) as url:
        settings = edge(tmp_path, url, batch_size=2)
        if fault is None:
            create_app(settings)
            return
        with pytest.raises(ConfigurationError) as error:
            create_app(settings)
    assert fault in error.value.faults[0]


PROBABILITIES = [0.7, 0.3] + [0.0] * 8
LOG_PROBABILITIES = [-0.36, -1.2] + [-9.0] * 8


@pytest.mark.parametrize(
    ("outputs", "row", "fault"),
    [
        ("probabilities", LOG_PROBABILITIES, "rows of probabilities that sum to 1, got others"),
        ("logits", PROBABILITIES, "expected logits, got rows that sum to 1"),
        ("probabilities", PROBABILITIES, None),
        ("logits", LOG_PROBABILITIES, None),
    ],
)
def test_B2_upstream_rows_of_another_form_are_a_fault(
    tmp_path: Path, outputs: str, row: list[float], fault: str | None
) -> None:
    answer = document(tensor("raw", "FP32", [1, 10], row))
    with upstream(says(answer)) as url:
        settings = edge(tmp_path, url, tensors={"datatype": "FP32", "logits": "raw"})
        manifest = tmp_path / "bundle" / "model.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"outputs": outputs}))
        if fault is None:
            create_app(settings)
            return
        with pytest.raises(ConfigurationError) as error:
            create_app(settings)
    assert fault in error.value.faults[0]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"engine": "oip"}, "expected a url for the engine oip, got none"),
        ({"url": "http://h/x"}, "expected no url for the engine embedded, got one"),
        ({"engine": "oip", "url": "http://h/x", "key_file": "k"}, "expected no key_file"),
        ({"tensors": TensorSettings()}, "expected no tensors for the engine embedded"),
    ],
)
def test_settings_that_do_not_fit_the_engine_are_faults(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    model = ModelSettings(bundle=make_bundle(tmp_path / "b"), **changes)
    with pytest.raises(ConfigurationError, match=fault):
        create_app(make_settings(tmp_path / "s", model))


@pytest.mark.parametrize("url", ["ftp://h/x", "http://h", "http://user:key@h/x", "http://h/x?y=1"])
def test_upstream_url_that_is_not_plain_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        ModelSettings(bundle=tmp_path, engine="oip", url=url)
