"""Run the service: say what is served, listen, drain on the first signal, end with status 0."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI
from rich.console import Console

from stingy_server.app import summary
from stingy_server.errors import ConfigurationError
from stingy_server.service import Service
from stingy_server.settings import Settings


def serve(app: FastAPI, *, console: Console) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are answered first.

    Raises:
        ConfigurationError: the address cannot be bound.
    """
    service: Service = app.state.service
    settings = service.settings
    listener = _bind(settings)
    if not service.keys.all():
        _make_first_key(service, console)
    for line in summary(service.endpoints):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    host, port = listener.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    console.print(f"listening on http://{address}:{port}", highlight=False, soft_wrap=True)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_s) or 1,
    )
    with listener:
        asyncio.run(_Server(config, service).serve(sockets=[listener]))


class _Server(uvicorn.Server):
    """uvicorn, but a drained server has ended well: the signal is not raised again."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        yield

    def _on_signal(self) -> None:
        self._service.draining = True
        self.force_exit = self.should_exit  # a second signal ends it at once
        self.should_exit = True


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            [f"{settings.host}:{settings.port}: cannot listen here: {error.strerror}"]
        ) from None
    return listener


def _make_first_key(service: Service, console: Console) -> None:
    key, text = service.keys.create("first", budget=service.settings.first_key_budget)
    console.print(
        f"no keys yet: made one for {key.budget} images, shown this once:\n{text}",
        highlight=False,
        soft_wrap=True,
    )
