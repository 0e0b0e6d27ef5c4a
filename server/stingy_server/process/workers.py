"""The processes that serve: one that drains, or several workers behind one socket.

The parent replaces a worker that ended. If a worker fails to start, the parent retries after longer
and longer delays. The other workers are not affected.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from types import FrameType

import uvicorn

from stingy_server.observability.metrics import drop_worker_gauges
from stingy_server.process.http_config import HttpConfig

log = logging.getLogger("stingy")

POLL_S = 0.1
HEARTBEAT_S = 0.25
HEARTBEAT_TIMEOUT_S = 60.0  # a worker without a heartbeat for so long hangs; loading takes a while
MAX_RETRY_DELAY_S = 60.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SPAWN = multiprocessing.get_context("spawn")


class DrainingServer(uvicorn.Server):
    """A uvicorn server that ends normally after it drained. It does not raise the signal again.

    Args:
        ignore_repeats: whether it continues to drain after a second signal. A signal that is sent
            to all processes at once reaches a worker twice, so its parent decides when to end it.
    """

    def __init__(self, config: HttpConfig, *, ignore_repeats: bool = False) -> None:
        super().__init__(config)
        self._ignore_repeats = ignore_repeats

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        yield

    def _on_signal(self) -> None:
        # A second signal ends the server at once.
        self.force_exit = self.should_exit and not self._ignore_repeats
        with contextlib.suppress(AttributeError):
            self.config.loaded_app.state.service.begin_drain(at_once=self.force_exit)
        self.should_exit = True


class Workers:
    """The workers of a server. Each is a process that loads its own models.

    Args:
        config: a configuration that can be pickled, with a factory. `config.workers` is the
            number of workers.
        listener: the socket from which all workers accept connections.
    """

    def __init__(self, config: HttpConfig, *, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._slots = [_Slot() for _ in range(config.workers)]
        self._signals = 0

    def run(self) -> bool:
        """Keep the workers running until a signal, then drain.

        Returns False if it ended because no worker could start.
        """
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        while not self._signals:
            for slot in self._slots:
                self._maintain(slot)
            if all(slot.worker is None and slot.failures for slot in self._slots):
                log.error("no worker is running and none could start: the server ends")
                return False
            time.sleep(POLL_S)
        self._drain()
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _maintain(self, slot: "_Slot") -> None:
        """Start or replace the worker of a slot, if it is due."""
        worker = slot.worker
        if worker is None:
            if time.monotonic() >= slot.retry_at:
                slot.worker = _Worker(self._config, self._listener)
        elif worker.is_alive():
            if worker.ready:
                slot.failures = 0
        elif worker.ready:
            log.error("worker %s ended with code %s: replacing it", worker.pid, worker.exitcode)
            drop_worker_gauges(worker.pid)
            slot.worker = None
        else:
            slot.failures += 1
            delay = min(2.0 ** (slot.failures - 1), MAX_RETRY_DELAY_S)
            slot.worker, slot.retry_at = None, time.monotonic() + delay
            log.error("worker %s could not start: trying again in %g s", worker.pid, delay)

    def _drain(self) -> None:
        """Let every worker drain and end. A second signal ends them at once."""
        self._listener.close()  # otherwise new connections would wait until the end
        workers = [slot.worker for slot in self._slots if slot.worker is not None]
        for worker in workers:
            worker.drain()
        while any(worker.is_alive() for worker in workers):
            if self._signals > 1:
                for worker in workers:
                    worker.kill()
            time.sleep(POLL_S)


class _Slot:
    """A slot for one worker, with the failures of its earlier ones."""

    def __init__(self) -> None:
        self.worker: _Worker | None = None
        self.failures = 0  # starts that failed in a row
        self.retry_at = 0.0


class _Worker:
    """One worker process. `ready` is true once it serves."""

    def __init__(self, config: HttpConfig, listener: socket.socket) -> None:
        self._heartbeats, sender = SPAWN.Pipe(duplex=False)
        self._process = SPAWN.Process(target=_run_worker, args=(config, listener, sender))
        self._process.start()
        sender.close()
        self._last_heartbeat = time.monotonic()
        self.ready = False

    @property
    def pid(self) -> int:
        assert self._process.pid is not None  # noqa: S101  the process was started
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        return self._process.exitcode

    def is_alive(self) -> bool:
        """Return whether the worker runs. Kill it if its heartbeats stopped."""
        with contextlib.suppress(EOFError, OSError):
            while self._heartbeats.poll():
                self.ready |= self._heartbeats.recv()
                self._last_heartbeat = time.monotonic()
        if not self._process.is_alive():
            self._heartbeats.close()
            return False
        if time.monotonic() - self._last_heartbeat > HEARTBEAT_TIMEOUT_S:
            log.error("worker %s sends no heartbeat: killing it", self.pid)
            self.kill()
            self._last_heartbeat = time.monotonic()
        return True

    def drain(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _run_worker(config: HttpConfig, listener: socket.socket, heartbeats: Connection) -> None:
    """Run a worker's server in its own process."""
    # Ignore SIGINT until the worker serves, because the parent passes the signal on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config.configure_logging()
    server = DrainingServer(config, ignore_repeats=True)
    arguments = (server, heartbeats)
    threading.Thread(target=_send_heartbeats, args=arguments, name="heartbeat", daemon=True).start()
    server.run([listener])


def _send_heartbeats(server: uvicorn.Server, heartbeats: Connection) -> None:
    """Send heartbeats to the parent. Drain this worker if its parent is gone."""
    while True:
        try:
            heartbeats.send(server.started)
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(HEARTBEAT_S)
