"""The answers of the OIP codec: numbers of the grid alone, in JSON and in binary."""

import numpy as np
import orjson
import torch

from stingy_protection import ScoreForm, SparseLogits
from stingy_server.codec.oip import HEADER_LENGTH, InferHead
from stingy_server.codec.oip_answers import encode_answer

ANSWER = SparseLogits(
    indices=torch.tensor([[3, 1]]),
    scores=torch.tensor([[-0.012, -4.5]]),
    num_classes=5,
    form=ScoreForm.LOG_PROB,
    decimals=3,
)


def query_for(identifier: str | None, outputs: dict[str, bool]) -> InferHead:
    return InferHead(identifier, 1, tuple(outputs.items()), 0, 60, "UINT8", (1, 4, 5, 3))


def test_json_scores_have_the_decimals_of_the_grid_alone() -> None:
    query = query_for("7", {"indices": False, "scores": False})
    body = encode_answer(query, ANSWER, model="m", version="1").body
    assert b"-0.012,-4.5]" in bytes(body)
    document = orjson.loads(body)
    assert document["id"] == "7"
    assert [output["shape"] for output in document["outputs"]] == [[1, 2], [1, 2]]


def test_dense_logits_in_binary_have_minus_infinity() -> None:
    query = query_for(None, {"logits": True, "indices": False})
    response = encode_answer(query, ANSWER, model="m", version="1")
    split = response.json_length
    assert split is not None
    assert dict(response.headers)[HEADER_LENGTH.lower().encode()] == b"%d" % split
    head, tail = orjson.loads(response.body[:split]), bytes(response.body[split:])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 20}
    dense = np.frombuffer(tail, "<f4")
    assert dense.tolist() == [-np.inf, -4.5, -np.inf, np.float32(-0.012), -np.inf]
