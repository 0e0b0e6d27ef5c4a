"""Raw calls of gRPC: bytes in, and the bytes and the status of their end out."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
import grpc.aio
import httpx
import numpy as np
from fastapi import FastAPI

from serving import running
from stingy_server import Settings
from stingy_server.rpc.messages import MESSAGES, SERVICE
from stingy_server.rpc.methods import RPCS
from stingy_server.store.ledger import Entry, Ledger

CONTENTS = {"UINT8": "uint_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}


class Ended(NamedTuple):
    """The end of a call.

    Attributes:
        status: the name of gRPC's status.
        code: the code of the refusal; None if there is none.
    """

    status: str
    code: str | None
    body: bytes
    text: str
    metadata: Mapping[str, str]


class RpcClient:
    """A client of one gRPC server, on one connection of its own.

    Args:
        authority: the certificate that it trusts, in PEM; None for gRPC without TLS.
    """

    def __init__(
        self, port: int, key: str | None, *options: tuple[str, int], authority: bytes | None = None
    ) -> None:
        fixed = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        address, options_sent = f"127.0.0.1:{port}", [*fixed, *options]
        if authority is None:
            self.channel = grpc.aio.insecure_channel(address, options=options_sent)
        else:
            credentials = grpc.ssl_channel_credentials(authority)
            self.channel = grpc.aio.secure_channel(address, credentials, options=options_sent)
        self.key = key

    def start(
        self, name: str, message: bytes = b"", *metadata: tuple[str, str], **options: Any
    ) -> Any:
        """Start a call with the client's key."""
        path = name if name.startswith("/") else f"/{SERVICE}/{name}"
        sent = self._metadata(metadata)
        return self.channel.unary_unary(path)(message, metadata=sent, timeout=60, **options)

    def start_late(self, name: str) -> Any:
        """Start a call without its message, which `write` sends later."""
        method = self.channel.stream_unary(f"/{SERVICE}/{name}")
        return method(metadata=self._metadata(()), timeout=60)

    async def call(
        self, name: str, message: bytes = b"", *metadata: tuple[str, str], **options: Any
    ) -> Ended:
        """Call an rpc, and return how it ended."""
        return await end_of(self.start(name, message, *metadata, **options))

    def _metadata(self, more: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
        own = [] if self.key is None else [("authorization", f"Bearer {self.key}")]
        return [*own, *more]


def without_key(rpc: RpcClient) -> RpcClient:
    """Return the same client without its key."""
    rpc.key = None
    return rpc


async def end_of(call: Any) -> Ended:
    """Wait for the end of a call."""
    try:
        body = await call
    except grpc.aio.AioRpcError as error:
        trailing = dict(error.trailing_metadata())
        return Ended(
            error.code().name, trailing.get("x-error-code"), b"", error.details() or "", trailing
        )
    return Ended("OK", None, body, "", dict(await call.trailing_metadata()))


@asynccontextmanager
async def rpc_running(
    settings: Settings, *, budget: int = 1_000_000
) -> AsyncIterator[tuple[RpcClient, httpx.AsyncClient, FastAPI]]:
    """Run the application with its gRPC server, and a client of each with the same key."""
    settings = settings.model_copy(update={"grpc_port": 0})
    async with running(settings, budget=budget) as (client, app):
        key = client.headers["Authorization"].removeprefix("Bearer ")
        rpc = RpcClient(app.state.rpc.port, key)
        try:
            yield rpc, client, app
        finally:
            await rpc.channel.close()


def infer_message(
    images: Any,
    *,
    raw: bool = True,
    datatype: str = "UINT8",
    model: str = "digits",
    shape: list[int] | None = None,
    outputs: Mapping[str, int] | tuple[str, ...] = (),
    **fields: Any,
) -> bytes:
    """Write an infer request.

    Args:
        images: an array, or a list of files for BYTES.
        outputs: the names of outputs, or the classes that each is sent as.
    """
    request = MESSAGES["ModelInferRequest"](model_name=model, **fields)
    shape = list(np.shape(images)) if shape is None else shape
    tensor = request.inputs.add(name="image", datatype=datatype, shape=shape)
    files = datatype == "BYTES"
    if raw:
        content = b"".join(len(f).to_bytes(4, "little") + f for f in images) if files else b""
        request.raw_input_contents.append(content if files else images.tobytes())
    else:
        elements = images if files else images.ravel().tolist()
        getattr(tensor.contents, CONTENTS[datatype]).extend(elements)
    for name in outputs:
        output = request.outputs.add(name=name)
        if isinstance(outputs, Mapping):
            output.parameters["classification"].int64_param = outputs[name]
    return bytes(request.SerializeToString())


def read_answer(body: bytes) -> dict[str, Any]:
    """Read the tensors of an answer, raw or typed, as arrays or lists of texts."""
    response = MESSAGES["ModelInferResponse"].FromString(body)
    types = {"INT64": "<i8", "FP32": "<f4"}
    arrays: dict[str, Any] = {}
    for index, output in enumerate(response.outputs):
        if output.datatype == "BYTES":
            arrays[output.name] = [*output.contents.bytes_contents]
        elif response.raw_output_contents:
            values = np.frombuffer(response.raw_output_contents[index], types[output.datatype])
            arrays[output.name] = values.reshape(output.shape)
        else:
            field = {"INT64": "int64_contents", "FP32": "fp32_contents"}[output.datatype]
            values = np.asarray(getattr(output.contents, field), types[output.datatype])
            arrays[output.name] = values.reshape(output.shape)
    return arrays


async def books(app: FastAPI) -> tuple[int, list[Entry]]:
    """Return the images charged to all keys, and the entries of requests in the ledger."""
    service = app.state.service
    await service.writes.flush()
    service.refusals.write()
    used = sum(budget.used for _, budget in service.keys.all())
    entries = [entry for _, entry in Ledger(service.database).entries()]
    return used, [entry for entry in entries if entry.event not in ("start", "stop")]


async def assert_rpcs_closed(rpc: RpcClient, headers: list[tuple[tuple[str, str], ...]]) -> None:
    """Check a promise of G: without a valid key all rpcs but the probes are refused alike.

    Args:
        rpc: a client without a key.
        headers: the metadata of each try.
    """
    texts = set()
    for path in [*RPCS, f"/{SERVICE}/RepositoryModelLoad", "/a/b", "/grpc.health.v1.Health/Check"]:
        for metadata in headers:
            ended = await rpc.call(path, b"", *metadata)
            if path.endswith(("/ServerLive", "/ServerReady")):
                assert ended.status == "OK", path
                continue
            assert (ended.status, ended.code) == ("UNAUTHENTICATED", "unauthenticated"), path
            texts.add(ended.text)
    assert len(texts) == 1
