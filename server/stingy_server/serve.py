"""Run the service: announce the endpoints, listen, drain on the first signal, end with status 0.

Settings and bundles stay as they were at the start. No signal makes the server read them again.
Only the certificate is read anew when its files change.
"""

import contextlib
import functools
import logging
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from fastapi import FastAPI
from rich.console import Console

from stingy_server.app import create_app
from stingy_server.errors import ConfigurationError
from stingy_server.models.deployed import bundle_digests
from stingy_server.models.endpoints import close_endpoints
from stingy_server.models.summary import summary
from stingy_server.observability import metrics
from stingy_server.observability.logs import log_config
from stingy_server.observability.metrics_server import MetricsServer
from stingy_server.process.core_dumps import forbid_core_dumps
from stingy_server.process.descriptors import raise_descriptor_limit
from stingy_server.process.gc_tuning import freeze_gc
from stingy_server.process.http_config import HttpConfig
from stingy_server.process.listening import cannot_listen
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
    with contextlib.ExitStack() as stack:
        listener, found = _bind(settings.host, settings.port, stack)
        metrics_port, more = _bind_metrics(settings)
        faults = [*faults, *found, *more]
        if settings.grpc_port is not None:
            reserved, found = _bind(settings.host, settings.grpc_port, stack)
            faults += found
            # It never listens. It keeps the port for the gRPC servers of all workers.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            settings = settings.model_copy(update={"grpc_port": reserved.getsockname()[1]})
        began = time.perf_counter()
        with _start_shown_on(console):
            app = create_app(settings, faults=faults)
        service: Service = app.state.service
        freeze_gc()  # takes a quarter of a second, so it runs before any client waits
        _listen(listener, metrics_port, service)
        if settings.workers > 1:
            stack.enter_context(metrics.shared_between_processes(settings.state / "metrics"))
        _make_first_key(service, console)
        _announce(service, listener, console, seconds=time.perf_counter() - began)
        if metrics_port is not None:
            metrics_port.start(service.metrics.registry if settings.workers == 1 else None)
        if settings.workers == 1:
            server = DrainingServer(_config(app, settings))
            server.run(sockets=[listener])
            if not server.started:
                sys.exit(UNABLE)
            return
        # Each worker loads the models again, and serves only the bundles that were loaded here.
        expected = bundle_digests(service.fleet)
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


def _config(app: "FastAPI | functools.partial[FastAPI]", settings: Settings) -> HttpConfig:
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


def _bind(host: str, port: int, stack: contextlib.ExitStack) -> tuple[socket.socket, list[str]]:
    """Bind an address before the models load, so that its fault is reported with theirs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = stack.enter_context(socket.socket(family))
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        return listener, [cannot_listen(host, port, error)]
    return listener, []


def _bind_metrics(settings: Settings) -> tuple[MetricsServer | None, list[str]]:
    """Bind the address of the metrics, if there is one."""
    if settings.metrics_port is None:
        return None, []
    try:
        server = MetricsServer(settings.metrics_host, settings.metrics_port)
    except OSError as error:
        return None, [cannot_listen(settings.metrics_host, settings.metrics_port, error)]
    return server, []


def _listen(listener: socket.socket, metrics_port: MetricsServer | None, service: Service) -> None:
    """Listen: from now on a client waits a moment and is not refused.

    Raises:
        ConfigurationError: another server has begun to listen here since the address was bound.
    """
    settings = service.settings
    try:
        host, port = settings.host, settings.port
        listener.listen(2048)
        if metrics_port is not None:
            host, port = settings.metrics_host, settings.metrics_port or 0
            metrics_port.listen()
    except OSError as error:
        close_endpoints(service.fleet)
        service.close()
        raise ConfigurationError([cannot_listen(host, port, error)]) from None


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
    for line in summary(service.fleet, service.settings):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    host, port = listener.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    console.print(f"started in {seconds:.1f} s", highlight=False, soft_wrap=True)
    secure = service.settings.tls_cert is not None
    if (grpc_port := service.settings.grpc_port) is not None:
        name = "gRPC over TLS" if secure else "gRPC"
        console.print(f"{name} on {address}:{grpc_port}", highlight=False, soft_wrap=True)
    scheme = "https" if secure else "http"
    console.print(f"listening on {scheme}://{address}:{port}", highlight=False, soft_wrap=True)


def _make_first_key(service: Service, console: Console) -> None:
    budget = service.settings.first_key_budget
    text = service.keys.create_first(budget=budget)
    if text is not None:
        console.print(
            f"no keys yet: made one for {budget} images, shown this once:\n{text}",
            highlight=False,
            soft_wrap=True,
        )
