"""Start an upstream engine. Its upstream must pass a trial before the server listens."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from stingy_protection import BundleManifest, Policy
from stingy_server.codec.images import Pixels
from stingy_server.identity import FINGERPRINT_HEADER, model_fingerprint
from stingy_server.inference.grid_comparison import find_dependence
from stingy_server.settings import ModelSettings, Settings, TensorSettings
from stingy_server.upstream.engine import UpstreamEngine, UpstreamFormat
from stingy_server.upstream.http_client import Upstream, UpstreamError


def start_upstream(
    name: str,
    model: ModelSettings,
    *,
    manifest: BundleManifest,
    policy: Policy,
    settings: Settings,
    secret: bytes,
    trial: Pixels,
) -> tuple[UpstreamEngine, list[str]]:
    """Make an engine, and send its upstream one image, the same again, and the same beside another.

    Args:
        model: the model's settings, already checked for misplaced ones.
        trial: two images, [2, height, width, 3].

    Returns:
        The engine, and the faults of the upstream.
    """
    faults = []
    if settings.strict:
        faults.append(
            f"{name}: strict cannot be kept by the engine {model.engine}: expected strict = false "
            "here, got true, because the model server decides the batches"
        )
    upstream_format = UpstreamFormat(model.tensors or TensorSettings())
    if model.engine == "torchserve":
        upstream_format = UpstreamFormat(
            TensorSettings(),
            required_header=(FINGERPRINT_HEADER, model_fingerprint(manifest, policy)),
        )
    make = partial(_engine, name, model, upstream_format, manifest, policy, settings, secret)
    try:
        faults += [f"{name}: the upstream: {fault}" for fault in _try(make, trial)]
    except UpstreamError as error:
        faults.append(f"{name}: the upstream failed on a trial image: {error}")
    return make(), faults


def _engine(
    name: str,
    model: ModelSettings,
    upstream_format: UpstreamFormat,
    manifest: BundleManifest,
    policy: Policy,
    settings: Settings,
    secret: bytes,
) -> UpstreamEngine:
    url = model.url or ""
    upstream = Upstream(
        url,
        ready_url=_ready_url(model.engine, url),
        timeout_s=model.timeout_s,
        connections=model.passes,
        key_file=model.key_file,
    )
    return UpstreamEngine(
        name,
        upstream,
        upstream_format,
        manifest=manifest,
        policy=policy,
        settings=settings,
        passes=model.passes,
        secret=secret,
    )


def _ready_url(engine: str, url: str) -> str:
    """Return the address of an upstream's readiness, which is beside that of its predictions."""
    if engine == "torchserve":
        return f"{url.partition('/predictions/')[0]}/ping"
    return f"{url.rpartition('/')[0]}/ready"


def _try(make: Callable[[], UpstreamEngine], images: Pixels) -> list[str]:
    """Return the faults of the answers to two images."""

    async def run_trial() -> list[str]:
        engine = make()
        try:
            alone, repeated = await engine.answer(images[:1]), await engine.answer(images[:1])
            faults = find_dependence(alone, repeated, await engine.answer(images))
            form = await engine.find_form_fault(images)
            return faults if form is None else [*faults, form]
        finally:
            await engine.close()

    # In its own thread and event loop, because start-up may itself run inside a loop, and
    # connections belong to the loop that made them.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, run_trial()).result()
