"""The processes that serve: how one drains, and how several are kept alive behind one socket.

A worker that ended is replaced; one that cannot come up is tried again, ever more rarely, and
leaves the others as they are.
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

from stingy_server.observability.metrics import forget_work_of

log = logging.getLogger("stingy")

TICK_S = 0.1
HEARTBEAT_S = 0.25
SILENCE_S = 60.0  # a worker that has told nothing for so long hangs; loading keeps it busy a while
LONGEST_PAUSE_S = 60.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SPAWN = multiprocessing.get_context("spawn")


class DrainingServer(uvicorn.Server):
    """uvicorn, but a drained server has ended well: the signal is not raised again.

    Args:
        patient: whether it drains on, however many signals come. What is sent to all processes
            at once reaches a worker twice; its parent knows when to end it.
    """

    def __init__(self, config: uvicorn.Config, *, patient: bool = False) -> None:
        super().__init__(config)
        self._patient = patient

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        yield

    def _on_signal(self) -> None:
        app = self.config.loaded_app
        with contextlib.suppress(AttributeError):
            app.state.service.draining = True
        self.force_exit = self.should_exit and not self._patient  # a second one ends it at once
        self.should_exit = True


class Workers:
    """The workers of a server, each in a process that loads for itself.

    Args:
        config: picklable, with a factory; `workers` of them are kept.
        listener: what all of them accept from.
    """

    def __init__(self, config: uvicorn.Config, *, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._places = [_Place() for _ in range(config.workers)]
        self._signals = 0

    def run(self) -> bool:
        """Until a signal; then drain. False if it ended because no worker could be started."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        while not self._signals:
            for place in self._places:
                self._keep(place)
            if all(place.worker is None and place.failures for place in self._places):
                log.error("no worker is left, and none could be started: the server ends")
                return False
            time.sleep(TICK_S)
        self._drain()
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _keep(self, place: "_Place") -> None:
        """Let this place have a worker, now or when it is its time."""
        worker = place.worker
        if worker is None:
            if time.monotonic() >= place.retry_at:
                place.worker = _Worker(self._config, self._listener)
        elif worker.is_alive():
            if worker.ready:
                place.failures = 0
        elif worker.ready:
            log.error("worker %s ended with %s and is replaced", worker.pid, worker.exitcode)
            forget_work_of(worker.pid)
            place.worker = None
        else:
            place.failures += 1
            pause = min(2.0 ** (place.failures - 1), LONGEST_PAUSE_S)
            place.worker, place.retry_at = None, time.monotonic() + pause
            log.error("worker %s could not start; again in %g s", worker.pid, pause)

    def _drain(self) -> None:
        """Let every worker end; a second signal ends them at once."""
        self._listener.close()  # else who connects would wait for the end
        workers = [place.worker for place in self._places if place.worker is not None]
        for worker in workers:
            worker.drain()
        while any(worker.is_alive() for worker in workers):
            if self._signals > 1:
                for worker in workers:
                    worker.kill()
            time.sleep(TICK_S)


class _Place:
    """Where a worker is, or is to be: what has become of those that were tried."""

    def __init__(self) -> None:
        self.worker: _Worker | None = None
        self.failures = 0  # one after the other
        self.retry_at = 0.0


class _Worker:
    """One process, from its start; `ready` once it serves."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        self._heartbeats, theirs = SPAWN.Pipe(duplex=False)
        self._process = SPAWN.Process(target=_work, args=(config, listener, theirs))
        self._process.start()
        theirs.close()
        self._heard = time.monotonic()
        self.ready = False

    @property
    def pid(self) -> int:
        assert self._process.pid is not None  # noqa: S101  it was started
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        return self._process.exitcode

    def is_alive(self) -> bool:
        """Whether it runs and speaks; one that hangs is killed."""
        with contextlib.suppress(EOFError, OSError):
            while self._heartbeats.poll():
                self.ready |= self._heartbeats.recv()
                self._heard = time.monotonic()
        if not self._process.is_alive():
            self._heartbeats.close()
            return False
        if time.monotonic() - self._heard > SILENCE_S:
            log.error("worker %s hangs and is killed", self.pid)
            self.kill()
            self._heard = time.monotonic()
        return True

    def drain(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _work(config: uvicorn.Config, listener: socket.socket, heartbeats: Connection) -> None:
    """What a worker runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until it serves; its parent passes it on
    config.configure_logging()
    server = DrainingServer(config, patient=True)
    arguments = (server, heartbeats)
    threading.Thread(target=_beat, args=arguments, name="heartbeat", daemon=True).start()
    server.run([listener])


def _beat(server: uvicorn.Server, heartbeats: Connection) -> None:
    """Tell the parent of this worker; one that has lost its parent drains."""
    while True:
        try:
            heartbeats.send(server.started)
        except OSError:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(HEARTBEAT_S)
