"""Start an upstream engine: its model server answers a trial image before the server listens."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from stingy_protection import BundleManifest, Policy
from stingy_server.codec.images import Pixels
from stingy_server.identity import FINGERPRINT_HEADER, model_fingerprint
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
    """Make an engine and send its upstream a trial image.

    Args:
        model: without misplaced settings.
        trial: [1, height, width, 3].

    Returns:
        The engine, and the reasons why the upstream cannot be used.
    """
    faults = []
    if settings.strict:
        faults.append(
            f"{name}: strict cannot be kept by the engine {model.engine}: expected strict = false "
            "here, got true; what the batches are is the model server's to say"
        )
    upstream_format = UpstreamFormat(model.tensors or TensorSettings())
    if model.engine == "torchserve":
        upstream_format = UpstreamFormat(
            TensorSettings(),
            required_header=(FINGERPRINT_HEADER, model_fingerprint(manifest, policy)),
        )
    make = partial(_engine, name, model, upstream_format, manifest, policy, settings, secret)
    try:
        _try_out(make, trial)
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
    upstream = Upstream(
        model.url or "",
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


def _try_out(make: Callable[[], UpstreamEngine], images: Pixels) -> None:
    async def run_trial() -> None:
        engine = make()
        try:
            await engine.answer(images)
        finally:
            await engine.close()

    # A loop of its own in a thread of its own: start-up may itself run within a loop, and
    # connections belong to the loop they were made in.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, run_trial()).result()
