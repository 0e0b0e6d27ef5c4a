"""The messages of `inference.GRPCInferenceService`, as the clients of KServe and Triton send them.

The numbers of the fields are the protocol's, and the names of nested messages are flat, which does
not show on the wire. The classes are made at import, in a pool of their own: another package in the
process may have the protocol's generated code, and no pool takes a name twice.
"""

import re
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_NAMED = ("string name = 1", "string version = 2")
_CHOICE = "parameter_choice"
_MESSAGES = {
    "ServerLiveResponse": ("bool live = 1",),
    "ServerReadyResponse": ("bool ready = 1",),
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": ("bool ready = 1",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": (*_NAMED, "repeated string extensions = 3"),
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": (
        "string name = 1",
        "repeated string versions = 2",
        "string platform = 3",
        "repeated TensorMetadata inputs = 4",
        "repeated TensorMetadata outputs = 5",
        "map string properties = 6",  # optional; clients without it ignore it
    ),
    "TensorMetadata": ("string name = 1", "string datatype = 2", "repeated int64 shape = 3"),
    "ModelInferRequest": (
        "string model_name = 1",
        "string model_version = 2",
        "string id = 3",
        "map InferParameter parameters = 4",
        "repeated InferInputTensor inputs = 5",
        "repeated InferRequestedOutputTensor outputs = 6",
        "repeated bytes raw_input_contents = 7",
    ),
    "InferInputTensor": (
        "string name = 1",
        "string datatype = 2",
        "repeated int64 shape = 3",
        "map InferParameter parameters = 4",
        "InferTensorContents contents = 5",
    ),
    "InferRequestedOutputTensor": ("string name = 1", "map InferParameter parameters = 2"),
    "ModelInferResponse": (
        "string model_name = 1",
        "string model_version = 2",
        "string id = 3",
        "map InferParameter parameters = 4",
        "repeated InferOutputTensor outputs = 5",
        "repeated bytes raw_output_contents = 6",
    ),
    "InferOutputTensor": (
        "string name = 1",
        "string datatype = 2",
        "repeated int64 shape = 3",
        "InferTensorContents contents = 5",
    ),
    "InferParameter": (
        f"{_CHOICE} bool bool_param = 1",
        f"{_CHOICE} int64 int64_param = 2",
        f"{_CHOICE} string string_param = 3",
        f"{_CHOICE} double double_param = 4",
        f"{_CHOICE} uint64 uint64_param = 5",
    ),
    "InferTensorContents": (
        "repeated bool bool_contents = 1",
        "repeated int32 int_contents = 2",
        "repeated int64 int64_contents = 3",
        "repeated uint32 uint_contents = 4",
        "repeated uint64 uint64_contents = 5",
        "repeated float fp32_contents = 6",
        "repeated double fp64_contents = 7",
        "repeated bytes bytes_contents = 8",
    ),
    "ModelConfigRequest": _NAMED,
    "ModelConfigResponse": ("ModelConfig config = 1",),
    "ModelConfig": (
        "string name = 1",
        "string platform = 2",
        "int32 max_batch_size = 4",
        "repeated ModelInput input = 5",
        "repeated ModelOutput output = 6",
        "map ModelParameter parameters = 14",
        "string backend = 17",
    ),
    "ModelInput": (
        "string name = 1",
        "DataType data_type = 2",
        "Format format = 3",
        "repeated int64 dims = 4",
    ),
    "ModelOutput": ("string name = 1", "DataType data_type = 2", "repeated int64 dims = 3"),
    "ModelParameter": ("string string_value = 1",),
    "ModelStatisticsRequest": _NAMED,
    "ModelStatisticsResponse": ("repeated ModelStatistics model_stats = 1",),
    "ModelStatistics": (
        *_NAMED,
        "uint64 last_inference = 3",
        "uint64 inference_count = 4",
        "uint64 execution_count = 5",
        "InferStatistics inference_stats = 6",
    ),
    "InferStatistics": (
        "StatisticDuration success = 1",
        "StatisticDuration fail = 2",
        "StatisticDuration queue = 3",
        "StatisticDuration compute_input = 4",
        "StatisticDuration compute_infer = 5",
        "StatisticDuration compute_output = 6",
        "StatisticDuration cache_hit = 7",
        "StatisticDuration cache_miss = 8",
    ),
    "StatisticDuration": ("uint64 count = 1", "uint64 ns = 2"),
    "RepositoryIndexRequest": ("string repository_name = 1", "bool ready = 2"),
    "RepositoryIndexResponse": ("repeated ModelIndex models = 1",),
    "ModelIndex": (*_NAMED, "string state = 3", "string reason = 4"),
}
_DATA_TYPES = (
    "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"
)
_ENUMS = {
    "DataType": tuple(f"TYPE_{name}" for name in _DATA_TYPES.split()),
    "Format": ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"),
}
_LINE = re.compile(r"(?:(\w+) )?(\w+) (\w+) = (\d+)")


def _add_fields(message: DescriptorProto, lines: tuple[str, ...]) -> None:
    for line in lines:
        found = _LINE.fullmatch(line)
        assert found is not None, line  # noqa: S101
        label, kind, name, number = found.groups()
        field = message.field.add(name=name, number=int(number))
        field.label = FieldDescriptorProto.LABEL_OPTIONAL
        if label in ("repeated", "map"):
            field.label = FieldDescriptorProto.LABEL_REPEATED
        elif label == _CHOICE:
            if not message.oneof_decl:
                message.oneof_decl.add(name=_CHOICE)
            field.oneof_index = 0
        if label == "map":
            entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
            entry.options.map_entry = True
            _add_fields(entry, ("string key = 1", f"{kind} value = 2"))
            kind = f"{message.name}.{entry.name}"
        _set_type(field, kind)


def _set_type(field: FieldDescriptorProto, kind: str) -> None:
    if kind in _ENUMS:
        field.type = FieldDescriptorProto.TYPE_ENUM
    elif kind[0].isupper():
        field.type = FieldDescriptorProto.TYPE_MESSAGE
    else:
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
        return
    field.type_name = f".{PACKAGE}.{kind}"


def _classes() -> dict[str, Any]:
    """Make the class of each message."""
    file = FileDescriptorProto(name="open_inference.proto", package=PACKAGE, syntax="proto3")
    for name, lines in _MESSAGES.items():
        _add_fields(file.message_type.add(name=name), lines)
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


MESSAGES: dict[str, Any] = _classes()
