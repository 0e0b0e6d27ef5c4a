"""The rpcs of the Open Inference Protocol that this server has. All others are refused."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import orjson
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from stingy_server.edge import descriptions
from stingy_server.edge.descriptions import Document
from stingy_server.edge.inference import infer_images
from stingy_server.edge.tier_view import visible_form
from stingy_server.errors import BAD_REQUEST, TOO_LARGE, ServiceError
from stingy_server.models.endpoints import Endpoint
from stingy_server.observability.request_record import RequestRecord
from stingy_server.queries.changed_keys import refresh_key
from stingy_server.queries.tiers import find_tier
from stingy_server.rpc.infer_codec import encode_infer, parse_infer
from stingy_server.rpc.messages import MESSAGES, SERVICE
from stingy_server.rpc.wire import (
    INLINE_HEAD_BYTES,
    InferMessage,
    count_large_head,
    split_request,
)
from stingy_server.service import Service


class Query(NamedTuple):
    """A call whose caller was admitted, and whose message is whole."""

    service: Service
    record: RequestRecord
    message: bytes

    def parse(self, name: str) -> Any:
        """Parse the message as one of this name.

        Raises:
            ServiceError: bad_request or too_large.
        """
        if len(self.message) > INLINE_HEAD_BYTES:
            raise ServiceError(TOO_LARGE, limit=INLINE_HEAD_BYTES)
        message = MESSAGES[name]()
        try:
            message.ParseFromString(self.message)
        except DecodeError:
            raise ServiceError(BAD_REQUEST) from None
        return message

    def endpoint(self, request: str) -> Endpoint:
        """Return the endpoint that the message, one of this name, names.

        Raises:
            ServiceError: as from `parse`; not_found.
        """
        named = self.parse(request)
        return self.service.endpoint(self.record, named.name, named.version or None)


@dataclass(frozen=True)
class Rpc:
    """One rpc.

    Attributes:
        answer: returns the bytes of the response. It raises ServiceError for any refusal.
        needs_key: whether it needs a key. If not, its message is not read.
        charges: whether it is a query, which is charged and recorded in the ledger.
    """

    answer: Callable[[Query], Awaitable[bytes]]
    needs_key: bool = True
    charges: bool = False


def encode(name: str, document: Document) -> bytes:
    """Encode a document of the protocol in the message of this name. Fields it lacks are left."""
    message = ParseDict(document, MESSAGES[name](), ignore_unknown_fields=True)
    return bytes(message.SerializeToString())


async def server_live(query: Query) -> bytes:
    return encode("ServerLiveResponse", {"live": True})


async def server_ready(query: Query) -> bytes:
    ready = descriptions.server_unready(query.service) is None
    return encode("ServerReadyResponse", {"ready": ready})


async def model_ready(query: Query) -> bytes:
    endpoint = query.endpoint("ModelReadyRequest")
    ready = await descriptions.model_unready(query.service, endpoint) is None
    return encode("ModelReadyResponse", {"ready": ready})


async def server_metadata(query: Query) -> bytes:
    return encode("ServerMetadataResponse", descriptions.server_metadata())


async def model_metadata(query: Query) -> bytes:
    endpoint = query.endpoint("ModelMetadataRequest")
    document = descriptions.model_metadata(query.service, query.record, endpoint)
    # The message has texts there, so that what is no text is JSON.
    properties = {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in document["parameters"].items()
    }
    return encode("ModelMetadataResponse", {**document, "properties": properties})


async def model_config(query: Query) -> bytes:
    endpoint = query.endpoint("ModelConfigRequest")
    config = descriptions.model_config(query.service, query.record, endpoint)
    return encode("ModelConfigResponse", {"config": config})


async def model_statistics(query: Query) -> bytes:
    named = query.parse("ModelStatisticsRequest")
    document = descriptions.model_statistics(
        query.service, query.record, named.name or None, named.version or None
    )
    return encode("ModelStatisticsResponse", document)


async def repository_index(query: Query) -> bytes:
    named = query.parse("RepositoryIndexRequest")
    models = await descriptions.repository_index(
        query.service, query.record, ready_only=named.ready
    )
    return encode("RepositoryIndexResponse", {"models": models})


async def model_infer(query: Query) -> bytes:
    """Classify a batch of images, in raw bytes or as typed contents."""
    message = split_request(query.message)
    service, record = query.service, query.record
    try:
        return await _infer(query, message)
    except ServiceError as error:
        await refresh_key(service, record, error)
    return await _infer(query, message)


async def _infer(query: Query, message: InferMessage) -> bytes:
    service, record = query.service, query.record
    # A second try has the model, and its room, from the first.
    endpoint = record.endpoint or service.endpoint(record, message.model, message.version)
    tier = find_tier(service, record)
    most = service.settings.max_request_images
    head, answer = await infer_images(
        service,
        record,
        endpoint,
        partial(parse_infer, message, form=visible_form(endpoint.policy, tier), max_images=most),
        message.raw[0] if message.raw else b"",
        count=count_large_head(message, max_images=most),
        tier=tier,
    )
    return encode_infer(
        head,
        answer,
        model=endpoint.name,
        version=endpoint.manifest.version,
        labels=endpoint.manifest.classes,
        raw=bool(message.raw),
    )


RPCS = {
    f"/{SERVICE}/{name}": rpc
    for name, rpc in {
        "ServerLive": Rpc(server_live, needs_key=False),
        "ServerReady": Rpc(server_ready, needs_key=False),
        "ModelReady": Rpc(model_ready),
        "ServerMetadata": Rpc(server_metadata),
        "ModelMetadata": Rpc(model_metadata),
        "ModelConfig": Rpc(model_config),
        "ModelStatistics": Rpc(model_statistics),
        "RepositoryIndex": Rpc(repository_index),
        "ModelInfer": Rpc(model_infer, charges=True),
    }.items()
}
