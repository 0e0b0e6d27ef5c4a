"""The messages have the numbers and types of the protocol, as Triton's generated code has them."""

from typing import Any

import pytest

from stingy_server.rpc.messages import MESSAGES, SERVICE
from stingy_server.rpc.methods import RPCS

# The generated code is one major version older than the library that reads it.
pytestmark = pytest.mark.filterwarnings("default")


def tritons_messages() -> dict[str, Any]:
    """Return the descriptors of Triton's messages by name, those inside others too."""
    pytest.importorskip("tritonclient.grpc", reason="needs tritonclient and grpcio")
    from tritonclient.grpc import model_config_pb2, service_pb2

    found: dict[str, Any] = {}

    def add(descriptors: Any) -> None:
        for descriptor in descriptors:
            if not descriptor.GetOptions().map_entry:
                found.setdefault(descriptor.name, descriptor)
                add(descriptor.nested_types)

    add(service_pb2.DESCRIPTOR.message_types_by_name.values())
    add(model_config_pb2.DESCRIPTOR.message_types_by_name.values())
    return found


def described(field: Any) -> tuple[Any, ...]:
    """Describe a field as it shows on the wire, and the names of an enumeration."""
    message, enum = field.message_type, field.enum_type
    is_map = message is not None and message.GetOptions().map_entry
    return (
        field.name,
        field.type,
        field.is_repeated,
        None if message is None or is_map else message.name,
        None if enum is None else {value.name: value.number for value in enum.values},
    )


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_of_a_message_are_those_of_the_protocol(name: str) -> None:
    theirs = {field.number: field for field in tritons_messages()[name].fields}
    for field in MESSAGES[name].DESCRIPTOR.fields:
        if field.name == "properties":  # which Triton's clients ignore
            assert field.number not in theirs
            continue
        assert described(field) == described(theirs[field.number])


def test_rpcs_are_those_of_the_protocol() -> None:
    pytest.importorskip("tritonclient.grpc", reason="needs tritonclient and grpcio")
    from tritonclient.grpc import service_pb2

    (service,) = service_pb2.DESCRIPTOR.services_by_name.values()
    assert service.full_name == SERVICE
    assert {path.rpartition("/")[2] for path in RPCS} <= {each.name for each in service.methods}
