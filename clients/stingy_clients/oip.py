"""The client's part of the Open Inference Protocol v2 with its binary tensor extension.

Invariant: a response that differs from the protocol in one byte is an UnexpectedAnswer, never a
half-read tensor. Source: Open Inference Protocol v2, "Inference Request JSON Object", and
Triton's "Binary tensor data extension".
"""

import json
import struct
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from stingy_clients.answers import Float32, Int64, ModelInfo
from stingy_clients.errors import UnexpectedAnswer
from stingy_clients.images import Batch

LENGTH_HEADER = "Inference-Header-Content-Length"

_Size = Annotated[int, Field(ge=1)]


class _Binary(BaseModel):
    binary_data_size: Annotated[int, Field(ge=0)]


class _Indices(BaseModel):
    name: Literal["indices"]
    datatype: Literal["INT64"]
    shape: tuple[_Size, _Size]
    parameters: _Binary


class _Scores(BaseModel):
    name: Literal["scores"]
    datatype: Literal["FP32"]
    shape: tuple[_Size, _Size]
    parameters: _Binary


class _AnswerParameters(BaseModel):
    scores: str | None = None  # servers of release 0.1.0 do not name the form


class _InferResponse(BaseModel):
    model_name: str
    model_version: str
    parameters: _AnswerParameters = _AnswerParameters()
    outputs: tuple[Annotated[_Indices | _Scores, Field(discriminator="name")], ...]


class _Parameters(BaseModel):
    version: str | None = None  # servers of release 0.1.0 do not name it
    labels: tuple[str, ...]
    num_classes: int
    policy: str
    support: int
    scores: str
    decimals: int
    fingerprint: str
    image_size: tuple[int, int]
    max_batch: int
    max_pixels: int | None = None
    max_bytes: int | None = None


class _Metadata(BaseModel):
    name: str
    versions: Annotated[tuple[str, ...], Field(min_length=1)]
    parameters: _Parameters


@dataclass(frozen=True)
class Tensors:
    """The tensors of a response.

    Args:
        version: the version that answered.
        indices: int64 [B, N].
        scores: float32 [B, N], or None.
        form: the form of the scores, or None if the server does not name it.
    """

    version: str
    indices: Int64
    scores: Float32 | None
    form: str | None = None


def encode_request(batch: Batch) -> tuple[dict[str, str], bytes]:
    """Encode the headers and the body of a request, with binary input and output."""
    if isinstance(batch, tuple):
        datatype, shape = "BYTES", [len(batch)]
        data = b"".join(part for file in batch for part in (struct.pack("<I", len(file)), file))
    else:
        datatype, shape, data = "UINT8", list(batch.shape), batch.tobytes()
    tensor = {
        "name": "image",
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": len(data)},
    }
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    head = json.dumps(document, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(head))}
    return headers, head + data


def decode_response(content: bytes, length: str | None, *, model: str, count: int) -> Tensors:
    """Decode the tensors of a response.

    Args:
        content: the body.
        length: the header `Inference-Header-Content-Length`, or None.
        model: the name of the requested model.
        count: the number of images in the request.

    Raises:
        UnexpectedAnswer: if a name, type, shape or size is wrong, or if there are scores beside
            the form none or the reverse.
    """
    at = _parse_length(length, total=len(content))
    try:
        response = _InferResponse.model_validate_json(content[:at], strict=True)
    except ValidationError:
        raise UnexpectedAnswer(
            "expected an Open Inference Protocol response, got another body"
        ) from None
    if response.model_name != model:
        raise UnexpectedAnswer("expected a response of the requested model, got another model's")
    names = sorted(output.name for output in response.outputs)
    if names not in (["indices"], ["indices", "scores"]):
        raise UnexpectedAnswer("expected the outputs indices and scores, got others")
    arrays: dict[str, bytes] = {}
    batch, support = response.outputs[0].shape
    for output in response.outputs:
        if output.shape != (batch, support) or batch != count:
            raise UnexpectedAnswer(f"expected outputs [{count}, N], got {list(output.shape)}")
        size = batch * support * (8 if output.datatype == "INT64" else 4)
        if output.parameters.binary_data_size != size:
            raise UnexpectedAnswer(
                f"expected {size} bytes of {output.name}, got {output.parameters.binary_data_size}"
            )
        arrays[output.name] = content[at : at + size]
        at += size
    if at != len(content):
        raise UnexpectedAnswer(f"expected {at} bytes, got {len(content)}")
    form = response.parameters.scores
    if form is not None and (form == "none") != ("scores" not in arrays):
        raise UnexpectedAnswer("expected scores unless their form is none, got another response")
    indices = np.frombuffer(arrays["indices"], dtype="<i8").reshape(batch, support)
    scores = None
    if "scores" in arrays:
        scores = np.frombuffer(arrays["scores"], dtype="<f4").reshape(batch, support)
    return Tensors(
        version=response.model_version,
        indices=indices.astype(np.int64),  # a copy in the machine's byte order, writable
        scores=None if scores is None else scores.astype(np.float32),
        form=form,
    )


def check_values(tensors: Tensors, *, num_classes: int) -> None:
    """Check that indices are in range and unique in each row, and that scores are finite.

    Raises:
        UnexpectedAnswer: if one of them is not.
    """
    indices, scores = tensors.indices, tensors.scores
    if indices.min() < 0 or indices.max() >= num_classes:
        raise UnexpectedAnswer(f"expected class indices below {num_classes}, got others")
    if not np.diff(np.sort(indices, axis=1), axis=1).all():
        raise UnexpectedAnswer("expected every class at most once in an answer, got one twice")
    if scores is not None and not np.isfinite(scores).all():
        raise UnexpectedAnswer("expected finite scores, got others")


def decode_metadata(content: bytes, *, version: str | None = None) -> ModelInfo:
    """Decode a model's metadata document.

    Args:
        content: the body.
        version: the requested version, or None.

    Raises:
        UnexpectedAnswer: if fields are missing or contradict each other.
    """
    try:
        document = _Metadata.model_validate_json(content, strict=True)
        fields = document.parameters.model_dump()
        described = fields.pop("version") or version or document.versions[-1]
        return ModelInfo(name=document.name, version=described, **fields)
    except ValidationError:
        raise UnexpectedAnswer(
            "expected the metadata of a Stingy model, got another body"
        ) from None


def _parse_length(length: str | None, *, total: int) -> int:
    # str.isdigit accepts strings on which int() raises. isascii and the length check exclude them.
    if length is None or not (length.isascii() and length.isdigit() and len(length) <= 12):
        raise UnexpectedAnswer(f"expected a number in {LENGTH_HEADER}, got none")
    if int(length) > total:
        raise UnexpectedAnswer(f"expected at least {int(length)} bytes, got {total}")
    return int(length)
