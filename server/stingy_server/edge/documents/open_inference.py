"""The documents of the Open Inference Protocol and of Triton's extensions, for OpenAPI.

Handlers write the answers themselves, and codecs read the requests. Tests compare the answers of a
running server with these models.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from stingy_server.codec.oip import BINARY_TYPES, MAX_ID_LENGTH

_Count = Annotated[int, Field(ge=0)]


class ServerMetadata(BaseModel):
    """The name, the version and the extensions of the server."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """The answer of the probe of life."""

    live: bool


class ServerReady(BaseModel):
    """The answer of the probe of readiness. A server that is not ready refuses instead."""

    ready: bool


class ModelReady(BaseModel):
    """The readiness of a model. A model that is not ready is refused instead."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor of a model. A length of -1 is any."""

    name: str
    datatype: str
    shape: list[int]


class PolicyParameters(BaseModel):
    """The classes of a model, what leaves under the caller's tier, and the limits of a request."""

    version: str
    labels: list[str]
    num_classes: _Count
    policy: str
    support: _Count
    scores: str
    decimals: _Count
    fingerprint: str
    image_size: Annotated[list[int], Field(min_length=2, max_length=2)]
    max_batch: _Count
    max_pixels: _Count
    max_bytes: _Count


class ModelMetadata(BaseModel):
    """The metadata of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: PolicyParameters


class ConfigTensor(BaseModel):
    """A tensor in Triton's model configuration. A length of -1 is any."""

    name: str
    data_type: str
    format: str | None = None
    dims: list[int]


class ConfigText(BaseModel):
    """A parameter in Triton's model configuration."""

    string_value: str


class ModelConfig(BaseModel):
    """The configuration of a model, in Triton's form."""

    name: str
    platform: str
    backend: str
    max_batch_size: _Count
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    parameters: dict[str, ConfigText]


class Duration(BaseModel):
    """A number of requests and their nanoseconds in sum."""

    count: _Count
    ns: _Count


class InferStatistics(BaseModel):
    """The durations of the stages of the caller's requests."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class VersionStatistics(BaseModel):
    """The statistics of the caller's own requests to one version of a model."""

    name: str
    version: str
    last_inference: Annotated[int, Field(description="milliseconds since 1970; 0 for none")]
    inference_count: Annotated[int, Field(description="images")]
    execution_count: Annotated[int, Field(description="requests")]
    inference_stats: InferStatistics
    batch_stats: list[Any]
    memory_usage: list[Any]


class ModelStatistics(BaseModel):
    """The statistics of the caller's own requests."""

    model_stats: list[VersionStatistics]


class ModelIndexEntry(BaseModel):
    """A model version that the key may query. `reason` says why it is unavailable."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class IndexRequest(BaseModel):
    """The request for the list of models. `ready` leaves out those that are not ready."""

    ready: bool | None = None


class InferInputParameters(BaseModel):
    """The number of bytes of an input that follows the JSON."""

    binary_data_size: _Count | None = None


class InferInput(BaseModel):
    """The images of a request: integers in NHWC, floats in NCHW, or image files in base64."""

    name: Literal["image"]
    datatype: Annotated[str, Field(json_schema_extra={"enum": [*BINARY_TYPES, "BYTES"]})]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=4)]
    parameters: InferInputParameters | None = None
    data: list[Any] | None = None


class InferOutputParameters(BaseModel):
    """The form in which an output is sent."""

    binary_data: bool | None = None
    classification: int | None = None


class InferRequestedOutput(BaseModel):
    """An output to be sent."""

    name: Literal["indices", "scores", "logits"]
    parameters: InferOutputParameters | None = None


class InferParameters(BaseModel):
    """The form in which all outputs are sent, unless they say another."""

    binary_data_output: bool | None = None


class InferRequest(BaseModel):
    """A request for inference. Fields that are not listed are ignored."""

    id: Annotated[str, Field(max_length=MAX_ID_LENGTH)] | int | None = None
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[InferRequestedOutput], Field(max_length=3)] | None = None
    parameters: InferParameters | None = None


class InferOutput(BaseModel):
    """A tensor of an answer. A binary one has its size in place of its data."""

    name: Literal["indices", "scores", "logits"]
    datatype: Literal["INT64", "FP32", "BYTES"]
    shape: list[int]
    data: list[int] | list[float] | list[str] | None = None
    parameters: dict[str, int] | None = None


class InferScores(BaseModel):
    """The form of the scores of an answer."""

    scores: Literal["log_prob", "prob", "logit", "rank", "none"]


class InferResponse(BaseModel):
    """The answer to a request for inference."""

    id: str | None = None
    model_name: str
    model_version: str
    parameters: InferScores
    outputs: list[InferOutput]
