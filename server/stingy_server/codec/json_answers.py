"""The answers of the plain routes, as they are in JSON."""

from collections.abc import Sequence
from typing import Any

from stingy_protection import SparseLogits
from stingy_server.codec.oip_answers import json_numbers


def answer_rows(answer: SparseLogits, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the classes of each row, best first, each with index, label and score, if any.

    Args:
        answer: what leaves.
        labels: the K labels, by index.
    """
    indices = answer.indices.tolist()
    if answer.scores is None:
        return [{"classes": [{"index": i, "label": labels[i]} for i in row]} for row in indices]
    scores = json_numbers(answer.scores.numpy(), answer.decimals).tolist()
    return [
        {
            "classes": [
                {"index": i, "label": labels[i], "score": score}
                for i, score in zip(row, values, strict=True)
            ]
        }
        for row, values in zip(indices, scores, strict=True)
    ]
