"""The answer type of the client, and the wire types."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stingy_clients import (
    Answer,
    ClientError,
    ModelInfo,
    ModelList,
    PredictResponse,
    ScoredClass,
)

SCORES = st.floats(-1e4, 1e4, width=32)


def answer(
    *pairs: tuple[int, float | None], num_classes: int = 5, form: str = "log_prob"
) -> Answer:
    classes = tuple(
        ScoredClass(index=index, label=f"c{index}", score=score) for index, score in pairs
    )
    return Answer(classes, num_classes, "pets", "1", form)


def test_top1_is_the_first_class() -> None:
    found = answer((3, -0.1), (1, -2.0))
    assert found.top1 == ScoredClass(index=3, label="c3", score=-0.1)
    assert found.label == "c3"


def test_arrays_keep_the_order_and_have_the_promised_types() -> None:
    found = answer((3, -0.1), (1, -2.0))
    assert found.scores is not None
    assert (found.indices.dtype.name, found.scores.dtype.name) == ("int64", "float32")
    assert found.indices.tolist() == [3, 1]
    assert found.scores.tolist() == np.array([-0.1, -2.0], np.float32).tolist()


def test_dense_fills_the_withheld_classes() -> None:
    found = answer((3, -0.5), (1, -2.0))
    assert found.dense().dtype == np.float32
    assert found.dense().tolist() == [-np.inf, -2.0, -np.inf, -0.5, -np.inf]
    assert found.dense(fill=-9).tolist() == [-9, -2.0, -9, -0.5, -9]


def test_dense_without_scores_raises_with_advice() -> None:
    found = answer((3, None), (1, None))
    assert found.scores is None
    assert found.indices.tolist() == [3, 1]
    with pytest.raises(ClientError, match=r"expected an answer with scores.*use \.indices"):
        found.dense()


@settings(max_examples=50)
@given(st.dictionaries(st.integers(0, 29), SCORES, min_size=1))
def test_dense_contains_exactly_the_support(support: dict[int, float]) -> None:
    row = answer(*support.items(), num_classes=30).dense(fill=np.nan)
    assert {int(index) for index in np.flatnonzero(~np.isnan(row))} == set(support)
    assert all(row[index] == np.float32(score) for index, score in support.items())


def test_answers_are_frozen() -> None:
    found = answer((3, -0.5))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.model = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        found.top1.index = 4


def test_wire_types_ignore_unknown_fields_refuse_bad_values() -> None:
    body = '{"model": "m", "version": "1", "new": 1, "answers": [{"classes": [%s]}]}'
    entry = '{"index": 1, "label": "a", "score": %s}'
    good = PredictResponse.model_validate_json(body % (entry % -1), strict=True)
    assert good.answers[0].classes[0].score == -1.0
    for score in ("NaN", "-Infinity", "1e999", '"1"'):
        with pytest.raises(ValidationError):
            PredictResponse.model_validate_json(body % (entry % score), strict=True)
    with pytest.raises(ValidationError):
        PredictResponse.model_validate_json(body % "", strict=True)


def test_a_wire_answer_without_scores_omits_the_field() -> None:
    entry = ScoredClass(index=1, label="a")
    assert entry.model_dump(exclude_none=True) == {"index": 1, "label": "a"}


@pytest.mark.parametrize("change", [{"labels": ("a",)}, {"support": 3}, {"support": 0}])
def test_contradictory_model_metadata_is_refused(change: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "name": "m",
        "version": "1",
        "num_classes": 2,
        "labels": ("a", "b"),
        "policy": "stingy",
        "support": 1,
        "scores": "log_prob",
        "decimals": 3,
        "fingerprint": "0123456789ab",
        "image_size": (8, 8),
        "max_batch": 256,
    }
    ModelInfo.model_validate(fields)
    with pytest.raises(ValidationError):
        ModelInfo.model_validate(fields | change)


@pytest.mark.parametrize(
    ("form", "scores"),
    [("log_prob", (-0.467, -0.985)), ("prob", (0.627, 0.373)), ("logit", (102.5, 101.982))],
)
def test_probabilities_are_computed_from_each_form(form: str, scores: tuple[float, float]) -> None:
    found = answer((3, scores[0]), (1, scores[1]), form=form).probabilities
    assert found is not None
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([0.627, 0.373], abs=1e-3)


@pytest.mark.parametrize(
    ("form", "scores"), [("rank", (1.0, 2.0)), ("none", (None, None)), ("new", (0.5, 0.5))]
)
def test_other_forms_have_no_probabilities(
    form: str, scores: tuple[float | None, float | None]
) -> None:
    assert answer((3, scores[0]), (1, scores[1]), form=form).probabilities is None


def test_withheld_classes_are_counted() -> None:
    assert answer((3, -0.5), (1, -2.0)).withheld == 3
    assert answer((3, None), (1, None), num_classes=2, form="none").withheld == 0


INFO = ModelInfo(
    name="m",
    version="1",
    num_classes=2,
    labels=("a", "b"),
    policy="stingy",
    support=1,
    scores="log_prob",
    decimals=3,
    fingerprint="0123456789ab",
    image_size=(8, 8),
    max_batch=256,
)


@pytest.mark.parametrize(
    ("max_bytes", "side", "most"),
    [(None, 1000, 256), (2**20, 8, 256), (2**20, 256, 5), (2**20, 1000, 1), (100, 8, 1)],
)
def test_arrays_of_a_request_fit_its_bytes(max_bytes: int | None, side: int, most: int) -> None:
    assert INFO.model_copy(update={"max_bytes": max_bytes}).max_arrays(side, side) == most


def test_list_is_read_and_an_entry_without_versions_refused() -> None:
    entry: dict[str, object] = {
        "name": "m",
        "version": "2",
        "versions": ["1", "2"],
        "num_classes": 10,
        "image_size": [8, 9],
        "answer": "top 2",
        "scores": "prob",
        "max_batch": 4,
        "max_pixels": 99,
        "max_bytes": 999,
        "new": 1,
    }
    body = json.dumps({"models": [entry]})
    (model,) = ModelList.model_validate_json(body, strict=True).models
    assert (model.version, model.versions, model.image_size) == ("2", ("1", "2"), (8, 9))
    del entry["versions"]
    with pytest.raises(ValidationError):
        ModelList.model_validate_json(json.dumps({"models": [entry]}), strict=True)
