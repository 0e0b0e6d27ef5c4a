"""The models of a server, as one key gets them. Invariant: a key reads what its answers show.

Of two versions a key reads which one it gets, and not the shares. Budgets, weights, factories and
engines are not in the list.
"""

import math
from contextlib import suppress
from typing import Any

from stingy_server.codec.images import MAX_GROWTH
from stingy_server.codec.transforms import scaled_size
from stingy_server.edge.tier_view import TierView
from stingy_server.models.endpoints import Endpoint
from stingy_server.observability.request_record import RequestRecord
from stingy_server.queries.tiers import find_tier
from stingy_server.rates.rate_limits import parse_rate
from stingy_server.service import Service


def list_models(service: Service, record: RequestRecord) -> list[dict[str, Any]]:
    """Describe each model that is served, in the order of the names.

    Raises:
        ServiceError: as `find_tier` raises it.
    """
    tier = find_tier(service, record)
    described = []
    for name in sorted({endpoint.name for endpoint in service.endpoints(record)}):
        endpoint = service.fleet.find(name, None, caller=record.caller)
        if endpoint is None:  # unloaded meanwhile
            continue
        manifest, view = endpoint.manifest, TierView.of(endpoint.policy, tier)
        described.append(
            {
                "name": name,
                "version": manifest.version,
                "versions": list_versions(service, name),
                "num_classes": len(manifest.classes),
                "image_size": manifest.preprocessing.size,
                "answer": view.describe(len(manifest.classes)),
                "scores": view.form,
                **request_limits(service, endpoint, record),
            }
        )
    return described


def list_versions(service: Service, name: str) -> list[str]:
    """Return the versions of a model, the one without a share first."""
    return [each.manifest.version for each in service.fleet.versions(name)]


def request_limits(service: Service, endpoint: Endpoint, record: RequestRecord) -> dict[str, int]:
    """Return the most that one request of a key to an endpoint may hold.

    Returns:
        `max_batch` images, of any shape that is not narrow; `max_pixels` of all image files in sum;
        `max_bytes` of the body.
    """
    settings = service.settings
    # Small images are scaled up, and the scaled images of a request have a limit too.
    scaled = math.prod(scaled_size((1, 1), endpoint.manifest.preprocessing))
    most = [settings.max_request_images, MAX_GROWTH * settings.max_pixels // scaled]
    if settings.watch.max_unwatched is not None:
        most.append(settings.watch.max_unwatched)
    if record.key is not None and record.key.rate is not None:
        with suppress(ValueError):  # a rate that cannot be read; every query is refused
            most.append(parse_rate(record.key.rate).limit)
    return {
        "max_batch": max(1, min(most)),
        "max_pixels": settings.max_pixels,
        "max_bytes": settings.max_body_bytes,
    }
