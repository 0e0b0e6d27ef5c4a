"""The answers of the plain routes in JSON, and of the Open Inference Protocol v2 in both forms."""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from stingy_protection import ScoreForm, SparseLogits
from stingy_server.codec.oip import BINARY, HEADER_LENGTH, InferHead
from stingy_server.errors import JSON


class Encoded(NamedTuple):
    """The body of an answer.

    Attributes:
        json_length: bytes of the JSON, if binary data follows it; None if all is JSON.
    """

    body: bytes
    json_length: int | None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that describe the body."""
        if self.json_length is None:
            return [(b"content-type", JSON.encode())]
        length = b"%d" % self.json_length
        return [(b"content-type", BINARY.encode()), (HEADER_LENGTH.lower().encode(), length)]


def encode_answer(
    request: InferHead,
    answer: SparseLogits,
    *,
    model: str,
    version: str,
    labels: Sequence[str] = (),
) -> Encoded:
    """Encode an answer in the outputs that the client requested.

    Args:
        labels: the labels of all classes, for outputs that are sent as classes.
    """
    if not request.classified and all(binary for _, binary in request.outputs):
        arrays = [output_values(name, answer) for name, _ in request.outputs]
        shapes = [
            (name, each.shape) for (name, _), each in zip(request.outputs, arrays, strict=True)
        ]
        head = _binary_head(model, version, answer.form, tuple(shapes))
        if request.id is not None:
            head = b'%b,"id":%b}' % (head[:-1], orjson.dumps(request.id))
        return Encoded(b"".join([head, *map(np.ndarray.tobytes, arrays)]), len(head))
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    most_classes = dict(request.classified)
    for name, binary in request.outputs:
        if name in most_classes:
            output, content = encode_classes(
                name, answer, labels, most=most_classes[name], binary=binary
            )
        else:
            values = output_values(name, answer)
            output, content = _describe_output(name, values.shape, binary=binary), b""
            if binary:
                content = values.tobytes()
            else:
                output["data"] = json_numbers(values, answer.decimals).ravel()
        outputs.append(output)
        tail.append(content)
    message = _describe_answer(model, version, answer.form, outputs)
    if request.id is not None:
        message["id"] = request.id
    head = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return Encoded(b"".join([head, *tail]), len(head) if any(tail) else None)


def encode_classes(
    name: str, answer: SparseLogits, labels: Sequence[str], *, most: int, binary: bool
) -> tuple[dict[str, Any], bytes]:
    """Encode classes as "score:index:label", best first: no more of a row than its answer has.

    Source: Triton's "Classification extension".
    """
    assert answer.scores is not None  # noqa: S101  `parse_head` refuses classes without scores
    scores = json_numbers(answer.scores.numpy()[:, :most], answer.decimals).tolist()
    indices = answer.indices.numpy()[:, :most].tolist()
    texts = [
        f"{score}:{index}:{labels[index]}" if labels else f"{score}:{index}"
        for row in zip(scores, indices, strict=True)
        for score, index in zip(*row, strict=True)
    ]
    output: dict[str, Any] = {
        "name": name,
        "datatype": "BYTES",
        "shape": [len(indices), len(indices[0])],
    }
    if not binary:
        output["data"] = texts
        return output, b""
    encoded = [text.encode() for text in texts]
    content = b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
    output["parameters"] = {"binary_data_size": len(content)}
    return output, content


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


@lru_cache(maxsize=256)
def _binary_head(
    model: str, version: str, form: ScoreForm, outputs: tuple[tuple[str, tuple[int, ...]], ...]
) -> bytes:
    """Write the JSON of an answer without numbers in it. It depends on the shapes alone."""
    described = [_describe_output(name, shape, binary=True) for name, shape in outputs]
    return orjson.dumps(_describe_answer(model, version, form, described))


def _describe_answer(
    model: str, version: str, form: ScoreForm, outputs: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "model_name": model,
        "model_version": version,
        "parameters": {"scores": form},
        "outputs": outputs,
    }


def _describe_output(name: str, shape: tuple[int, ...], *, binary: bool) -> dict[str, Any]:
    datatype, size = ("INT64", 8) if name == "indices" else ("FP32", 4)
    output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if binary:
        output["parameters"] = {"binary_data_size": size * prod(shape)}
    return output


def json_numbers(values: npt.NDArray[Any], decimals: int) -> npt.NDArray[Any]:
    """Round float values to the grid, so that JSON has -0.012 and not -0.012000000104308128."""
    return values if values.dtype.kind == "i" else values.astype(np.float64).round(decimals)


def output_values(name: str, answer: SparseLogits) -> npt.NDArray[Any]:
    """Return an output's array, as it is on the wire: INT64 or FP32, [batch, row]."""
    indices = answer.indices.numpy()
    if name == "indices":
        return indices.astype("<i8", copy=False)
    assert answer.scores is not None  # noqa: S101  `_select_outputs` offers no scores without them
    scores = answer.scores.numpy().astype("<f4", copy=False)
    if name == "scores":
        return scores
    dense = np.full((len(scores), answer.num_classes), -np.inf, "<f4")
    np.put_along_axis(dense, indices, scores, axis=1)
    return dense
