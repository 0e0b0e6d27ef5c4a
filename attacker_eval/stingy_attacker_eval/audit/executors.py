"""The executors that train students: in this process, in several processes, or on Ray.

All give the same numbers. An executor takes a task when it has a free place, so that few tasks are
in memory at once. A task that queries the endpoint while it runs is never given to an executor of
other processes, because one process keeps the answers and their count.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from typing import Any

import torch

from stingy_attacker_eval.audit.train_student import StudentResult, Task, train_student
from stingy_attacker_eval.environment import default_device
from stingy_attacker_eval.errors import AuditError

Executor = Callable[[Iterable[tuple[int, Task]]], Iterator[tuple[int, StudentResult]]]
"""A function from numbered tasks to their results, in the order in which the tasks end."""


def in_turn(tasks: Iterable[tuple[int, Task]]) -> Iterator[tuple[int, StudentResult]]:
    """Train one student after the other, in this process."""
    for number, task in tasks:
        yield number, train_student(task)


def in_processes(count: int) -> Executor:
    """Return an executor that trains students in several processes on this machine.

    Each process uses as many threads as this one.

    count: processes at once.

    Raises AuditError if `count` is below one, or if a process ends before its student.
    """
    if count < 1:
        raise AuditError(f"expected one student or more at once, got {count}")

    def execute(tasks: Iterable[tuple[int, Task]]) -> Iterator[tuple[int, StudentResult]]:
        context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_exit_with_parent)
        running: dict[Future[StudentResult], int] = {}
        source = iter(tasks)
        try:
            while True:
                while len(running) < count and (found := next(source, None)) is not None:
                    running[pool.submit(train_packed, *_pack(found[1]))] = found[0]
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise AuditError(
                "expected a process to finish its student, got one that ended before: train fewer "
                "students at once if memory ran out"
            ) from None
        finally:
            if running:  # Ctrl-C or a failure: else each process would finish its student
                for process in set(multiprocessing.active_children()) - others:
                    process.terminate()
            pool.shutdown(cancel_futures=True)

    return execute


def on_ray(per_gpu: int = 1) -> Executor:
    """Return an executor that trains each student as a task of Ray.

    Ray is the cluster that RAY_ADDRESS names, or else this machine. Every node needs this package.

    per_gpu: students that share a GPU, if the cluster has GPUs.

    Raises AuditError if Ray is not installed.
    """
    try:
        ray: Any = import_module("ray")
    except ModuleNotFoundError:
        raise AuditError("expected the package ray, got none: pip install 'stingy[ray]'") from None

    def execute(tasks: Iterable[tuple[int, Task]]) -> Iterator[tuple[int, StudentResult]]:
        started_here = not ray.is_initialized()
        if started_here:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            resources = ray.cluster_resources()
            gpus, threads = resources.get("GPU", 0), torch.get_num_threads()
            count = int(gpus * per_gpu if gpus else resources.get("CPU", 1) // threads)
            remote = ray.remote(
                num_cpus=0 if gpus else threads, num_gpus=1 / per_gpu if gpus else 0, max_retries=1
            )(train_packed)
            running: dict[Any, int] = {}
            source = iter(tasks)
            while True:
                while len(running) < max(1, count) and (found := next(source, None)) is not None:
                    running[remote.remote(*_pack(found[1]))] = found[0]
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1)
                for reference in done:
                    yield running.pop(reference), ray.get(reference)
        finally:
            if started_here:
                ray.shutdown()

    return execute


def train_packed(content: bytes, threads: int) -> StudentResult:
    """Train a packed task in another process, on the default device of that process."""
    torch.set_num_threads(threads)
    task: Task = pickle.loads(content)  # noqa: S301 - from the process that started this one
    return train_student(task.to(default_device()))


def _pack(task: Task) -> tuple[bytes, int]:
    # As plain bytes, because tensors would use shared memory, and containers have little of it.
    return pickle.dumps(task.to(torch.device("cpu"))), torch.get_num_threads()


def _exit_with_parent() -> None:
    """Ignore SIGINT (the parent handles it); exit when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - only child processes run this
    parent.join()
    os._exit(1)
