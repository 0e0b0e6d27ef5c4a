"""Run the service: announce the endpoints, listen, drain on the first signal, end with status 0.

Settings and bundles stay as they were at the start. No signal makes the server read them again.
"""

import contextlib
import functools
import logging
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import uvicorn
from fastapi import FastAPI
from rich.console import Console

from stingy_server.app import create_app, summary
from stingy_server.errors import ConfigurationError
from stingy_server.identity import bundle_digest
from stingy_server.observability import metrics, metrics_server
from stingy_server.observability.logs import log_config
from stingy_server.process.core_dumps import forbid_core_dumps
from stingy_server.process.descriptors import raise_descriptor_limit
from stingy_server.process.gc_tuning import freeze_gc
from stingy_server.process.http_config import HttpConfig
from stingy_server.process.workers import DrainingServer, Workers
from stingy_server.service import Service
from stingy_server.settings import Settings
from stingy_server.store.base import StoreUnavailable

log = logging.getLogger("stingy")

UNABLE = 1  # the exit status of a server or a worker that cannot continue


def serve(settings: Settings, faults: Sequence[str], *, console: Console) -> None:
    """Serve until SIGINT or SIGTERM, then answer the requests in flight and end.

    Raises:
        ConfigurationError: lists all faults, before the server listens.
    """
    forbid_core_dumps()
    raise_descriptor_limit()
    listener, found = _bind(settings)
    faults = [*faults, *found]
    with listener, contextlib.ExitStack() as stack:
        began = time.perf_counter()
        with _start_shown_on(console):
            app = create_app(settings, faults=faults)
        if settings.workers > 1:
            stack.enter_context(metrics.shared_between_processes(settings.state / "metrics"))
        service: Service = app.state.service
        _make_first_key(service, console)
        freeze_gc()  # takes a quarter of a second, so it runs before any client waits
        listener.listen(2048)  # from now on a client waits a moment and is not refused
        _announce(service, listener, console, seconds=time.perf_counter() - began)
        if settings.metrics_port is not None:
            registry = service.metrics.registry if settings.workers == 1 else None
            metrics_server.listen(settings.metrics_host, settings.metrics_port, registry=registry)
        if settings.workers == 1:
            server = DrainingServer(_config(app, settings))
            server.run(sockets=[listener])
            if not server.started:
                sys.exit(UNABLE)
            return
        # Each worker loads the models again, and serves only the bundles that were loaded here.
        expected = {
            (endpoint.name, endpoint.manifest.version): bundle_digest(
                endpoint.manifest, endpoint.policy
            )
            for endpoint in service.fleet
        }
        config = _config(functools.partial(_worker_app, settings, expected), settings)
        if not Workers(config, listener=listener).run():
            sys.exit(UNABLE)


def _worker_app(settings: Settings, expected: Mapping[tuple[str, str], str]) -> FastAPI:
    """Build the application of a worker. End the process if its bundles differ from `expected`."""
    try:
        app = create_app(settings, expected=expected)
    except ConfigurationError as error:
        faults = error.faults
    except StoreUnavailable as error:
        faults = (str(error),)
    else:
        freeze_gc()
        return app
    for fault in faults:
        log.error("this worker does not serve: %s", fault)
    sys.exit(UNABLE)


def _config(app: "FastAPI | functools.partial[FastAPI]", settings: Settings) -> uvicorn.Config:
    return HttpConfig(
        app,
        factory=not isinstance(app, FastAPI),
        workers=settings.workers,
        header_timeout_s=settings.header_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        ws="none",
        access_log=False,
        log_config=log_config(settings.log_format),
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )


def _bind(settings: Settings) -> tuple[socket.socket, list[str]]:
    """Bind the address before the models load, so that its fault is reported with theirs."""
    faults = []
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        faults.append(
            f"{settings.host}:{settings.port}: cannot listen here: {error.strerror or error}"
        )
    return listener, faults


@contextlib.contextmanager
def _start_shown_on(console: Console) -> Iterator[None]:
    """Print what a start does, such as "digits 1: loading", as it does it."""

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)

    logger, handler = logging.getLogger("stingy.start"), Shown()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def _announce(
    service: Service, listener: socket.socket, console: Console, *, seconds: float
) -> None:
    for line in summary(service):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    host, port = listener.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    console.print(f"started in {seconds:.1f} s", highlight=False, soft_wrap=True)
    console.print(f"listening on http://{address}:{port}", highlight=False, soft_wrap=True)


def _make_first_key(service: Service, console: Console) -> None:
    budget = service.settings.first_key_budget
    text = service.keys.create_first(budget=budget)
    if text is not None:
        console.print(
            f"no keys yet: made one for {budget} images, shown this once:\n{text}",
            highlight=False,
            soft_wrap=True,
        )
