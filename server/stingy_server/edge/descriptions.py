"""Descriptions of the server and its models, in the documents of the Open Inference Protocol.

REST and gRPC share these functions. A document has the names of the protocol and of Triton's
extensions, so it is the JSON of REST and the JSON form of the messages of gRPC. Every document
about a model follows the caller's tier: it says nothing that the caller's answers do not show.
"""

import asyncio
from importlib.metadata import version as installed_version
from typing import Any, TypeAlias

from stingy_protection import ScoreForm
from stingy_server.edge.model_list import list_versions, request_limits
from stingy_server.edge.tier_view import TierView
from stingy_server.errors import (
    DRAINING,
    INTERNAL,
    STORE_UNAVAILABLE,
    UNKNOWN_MODEL,
    UPSTREAM_FAILED,
    Refusal,
    ServiceError,
)
from stingy_server.models.endpoints import Endpoint
from stingy_server.observability.key_statistics import Usage
from stingy_server.observability.request_record import RequestRecord
from stingy_server.queries.tiers import find_tier
from stingy_server.service import Service

Document: TypeAlias = dict[str, Any]

NAME = "stingy"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")


def server_metadata() -> Document:
    """Return the name, the version and the extensions of the server."""
    return {"name": NAME, "version": installed_version(NAME), "extensions": list(EXTENSIONS)}


def server_unready(service: Service) -> Refusal | None:
    """Return the refusal that queries get at present, or None if the server is ready."""
    if service.draining:
        return DRAINING
    if service.watch.failed:  # the server gives no answer without the watch
        return INTERNAL
    return None if service.database.health.check() else STORE_UNAVAILABLE


async def model_unready(service: Service, endpoint: Endpoint) -> Refusal | None:
    """Return the refusal that queries of a model get at present, or None if it is ready.

    A model behind another server is ready if that server says so.
    """
    refusal = server_unready(service)
    if refusal is None and not await endpoint.engine.ready():
        return UPSTREAM_FAILED
    return refusal


def model_metadata(service: Service, record: RequestRecord, endpoint: Endpoint) -> Document:
    """Return the metadata of a model: its tensors, its classes and its policy.

    Raises:
        ServiceError: refused, suspended or internal, if the caller gets no answers.
    """
    view = TierView.of(endpoint.policy, find_tier(service, record))
    manifest = endpoint.manifest
    return {
        "name": endpoint.name,
        "versions": list_versions(service, endpoint.name),
        "platform": NAME,
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1, length]}
            for name, datatype, length in _outputs(endpoint, view)
        ],
        "parameters": {
            "version": manifest.version,
            "labels": manifest.classes,
            "num_classes": endpoint.policy.num_classes,
            **_policy_fields(endpoint, view),
            "image_size": manifest.preprocessing.size,
            **request_limits(service, endpoint, record),
        },
    }


def model_config(service: Service, record: RequestRecord, endpoint: Endpoint) -> Document:
    """Return the configuration of a model, in the form of Triton's model configuration.

    It has what the metadata has. Nothing of it says how or where the model runs.

    Raises:
        ServiceError: as from `model_metadata`.
    """
    view = TierView.of(endpoint.policy, find_tier(service, record))
    image = {
        "name": "image",
        "data_type": "TYPE_UINT8",
        "format": "FORMAT_NHWC",
        "dims": [-1, -1, 3],
    }
    return {
        "name": endpoint.name,
        "platform": NAME,
        "backend": NAME,
        "max_batch_size": request_limits(service, endpoint, record)["max_batch"],
        "input": [image],
        "output": [
            {"name": name, "data_type": f"TYPE_{datatype}", "dims": [length]}
            for name, datatype, length in _outputs(endpoint, view)
        ],
        "parameters": {
            name: {"string_value": str(value)}
            for name, value in _policy_fields(endpoint, view).items()
        },
    }


def model_statistics(
    service: Service, record: RequestRecord, model: str | None, version: str | None = None
) -> Document:
    """Return the statistics of the caller's own requests, by version of each model.

    Args:
        model: the name of a model; None for all models.
        version: the version; None for all versions.

    Raises:
        ServiceError: not_found, if there is no such model or version.
    """
    endpoints = [each for each in service.endpoints(record) if model in (None, each.name)]
    chosen = [each for each in endpoints if version in (None, each.manifest.version)]
    if model is not None and not chosen:
        raise ServiceError(UNKNOWN_MODEL)
    find = service.metrics.statistics.find
    return {
        "model_stats": [
            _statistics(each, find(record.caller, each.name, each.manifest.version))
            for each in chosen
        ]
    }


async def repository_index(
    service: Service, record: RequestRecord, *, ready_only: bool = False
) -> list[Document]:
    """Return the name, the version and the state of each model that the key may query."""
    endpoints = service.endpoints(record)
    refusals = await asyncio.gather(*(model_unready(service, each) for each in endpoints))
    return [
        {
            "name": endpoint.name,
            "version": endpoint.manifest.version,
            "state": "READY" if refusal is None else "UNAVAILABLE",
            "reason": "" if refusal is None else refusal.message,
        }
        for endpoint, refusal in zip(endpoints, refusals, strict=True)
        if refusal is None or not ready_only
    ]


def _outputs(endpoint: Endpoint, view: TierView) -> list[tuple[str, str, int]]:
    """List the name, the type and the length of a row of each output."""
    indices = ("indices", "INT64", view.support)
    if view.form is ScoreForm.NONE:
        return [indices]
    scores = ("scores", "FP32", view.support)
    return [indices, scores, ("logits", "FP32", endpoint.policy.num_classes)]


def _policy_fields(endpoint: Endpoint, view: TierView) -> Document:
    return {
        "policy": endpoint.policy.name,
        "support": view.support,
        "scores": view.form,
        "decimals": view.decimals,
        "fingerprint": view.fingerprint,
    }


def _statistics(endpoint: Endpoint, usage: Usage) -> Document:
    def duration(milliseconds: int, *, count: int = usage.answered) -> Document:
        return {"count": count, "ns": milliseconds * 1_000_000}

    return {
        "name": endpoint.name,
        "version": endpoint.manifest.version,
        "last_inference": usage.last_ms,
        "inference_count": usage.images,
        "execution_count": usage.answered,
        "inference_stats": {
            "success": duration(usage.answered_ms),
            "fail": duration(0, count=usage.failed),
            "queue": duration(0, count=0),  # its time is in compute_infer
            "compute_input": duration(usage.input_ms),
            "compute_infer": duration(usage.engine_ms),
            "compute_output": duration(usage.output_ms),
            "cache_hit": duration(0, count=0),
            "cache_miss": duration(0, count=0),
        },
        "batch_stats": [],
        "memory_usage": [],
    }
