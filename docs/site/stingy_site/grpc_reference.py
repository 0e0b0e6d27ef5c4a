"""The page of the gRPC service, from the descriptors of the messages that the server sends."""

from collections.abc import Iterator
from typing import Any

_TYPES = {
    1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string",
    12: "bytes", 13: "uint32",
}  # fmt: skip
# ServerLive and ServerReady take no fields, and their messages are not read.
_EMPTY = ("ServerLiveRequest", "ServerReadyRequest")


def grpc_page() -> str:
    """Write the page: a table of the rpcs, and the definition of the service."""
    from stingy_server.rpc.messages import SERVICE
    from stingy_server.rpc.methods import RPCS

    rows = [
        f"| `{name.rpartition('/')[2]}` | {'needed' if rpc.needs_key else 'none'} "
        f"| {'yes' if rpc.charges else 'no'} |"
        for name, rpc in RPCS.items()
    ]
    return "\n".join(
        [
            "# gRPC service",
            "",
            f"The service `{SERVICE}` of the Open Inference Protocol, with the setting `grpc_port`."
            " [Query an endpoint](../query.md#grpc) explains the rpcs and the metadata. This page "
            "is drawn from the server's own messages. Their names of nested messages are flat, "
            "which does not show on the wire.",
            "",
            "| rpc | key | charged |",
            "|---|---|---|",
            *rows,
            "",
            "```proto",
            proto().rstrip(),
            "```",
            "",
        ]
    )


def proto() -> str:
    """Write the definition of the service, as protoc reads it."""
    from stingy_server.rpc.messages import MESSAGES, PACKAGE, SERVICE
    from stingy_server.rpc.methods import RPCS

    lines = ['syntax = "proto3";', f"package {PACKAGE};", "", f"service {SERVICE.split('.')[1]} {{"]
    for path in RPCS:
        name = path.rpartition("/")[2]
        lines.append(f"  rpc {name}({name}Request) returns ({name}Response) {{}}")
    lines += ["}", ""]
    lines += [f"message {name} {{}}" for name in _EMPTY]
    file = next(iter(MESSAGES.values())).DESCRIPTOR.file
    for message in file.message_types_by_name.values():
        lines += ["", *_message(message)]
    for enum in file.enum_types_by_name.values():
        values = [f"  {value.name} = {value.number};" for value in enum.values]
        lines += ["", f"enum {enum.name} {{", *values, "}"]
    return "\n".join(lines) + "\n"


def _message(message: Any) -> Iterator[str]:
    if not message.fields:
        yield f"message {message.name} {{}}"
        return
    yield f"message {message.name} {{"
    for choice in message.oneofs:
        yield f"  oneof {choice.name} {{"
        yield from (f"    {_type(field)} {field.name} = {field.number};" for field in choice.fields)
        yield "  }"
    for field in message.fields:
        if field.containing_oneof is None:
            yield f"  {_label(field)}{_type(field)} {field.name} = {field.number};"
    yield "}"


def _label(field: Any) -> str:
    return "repeated " if field.is_repeated and not _is_map(field) else ""


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _type(field: Any) -> str:
    if _is_map(field):
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return f"map<{_type(key)}, {_type(value)}>"
    if field.message_type is not None:
        return str(field.message_type.name)
    if field.enum_type is not None:
        return str(field.enum_type.name)
    return _TYPES[field.type]
