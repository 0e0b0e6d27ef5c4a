"""Where students are trained: here in turn, in processes, or on Ray; the numbers are the same.

Tasks are taken up as places become free, so that few of them are in memory at once. A task that
asks the endpoint as it runs is never given to an executor of other processes: answers and their
count are kept by one.
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
"""A function from numbered tasks to their results, in the order in which they end."""


def in_turn(tasks: Iterable[tuple[int, Task]]) -> Iterator[tuple[int, StudentResult]]:
    """One after the other, in this process."""
    for number, task in tasks:
        yield number, train_student(task)


def in_processes(count: int) -> Executor:
    """`count` at once on this machine, in processes with as many threads each as this one.

    Raises AuditError for fewer than one, or when a process ends before its student.
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
                    running[pool.submit(work, *_packed(found[1]))] = found[0]
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            raise AuditError(
                "expected a process to finish its student, got one that ended before: was there "
                "memory for as many at once?"
            ) from None
        finally:
            if running:  # stopped, or failed: what is under way would go on for a whole student
                for process in set(multiprocessing.active_children()) - others:
                    process.terminate()
            pool.shutdown(cancel_futures=True)

    return execute


def on_ray(per_gpu: int = 1) -> Executor:
    """Each student a task of Ray: of the cluster RAY_ADDRESS names, or of this machine.

    per_gpu: how many share a GPU, where the cluster has any. Every node needs this package. Raises
    AuditError when Ray is not installed.
    """
    try:
        ray: Any = import_module("ray")
    except ModuleNotFoundError:
        raise AuditError("expected the package ray, got none: pip install 'stingy[ray]'") from None

    def execute(tasks: Iterable[tuple[int, Task]]) -> Iterator[tuple[int, StudentResult]]:
        ours = not ray.is_initialized()
        if ours:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            places = ray.cluster_resources()
            gpus, threads = places.get("GPU", 0), torch.get_num_threads()
            count = int(gpus * per_gpu if gpus else places.get("CPU", 1) // threads)
            remote = ray.remote(
                num_cpus=0 if gpus else threads, num_gpus=1 / per_gpu if gpus else 0, max_retries=1
            )(work)
            running: dict[Any, int] = {}
            source = iter(tasks)
            while True:
                while len(running) < max(1, count) and (found := next(source, None)) is not None:
                    running[remote.remote(*_packed(found[1]))] = found[0]
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1)
                for reference in done:
                    yield running.pop(reference), ray.get(reference)
        finally:
            if ours:
                ray.shutdown()

    return execute


def work(packed: bytes, threads: int) -> StudentResult:
    """A packed task, in another process, on what that process has to train on."""
    torch.set_num_threads(threads)
    task: Task = pickle.loads(packed)  # noqa: S301 - ours, from the process that started this one
    return train_student(task.to(default_device()))


def _packed(task: Task) -> tuple[bytes, int]:
    # As plain bytes: tensors would go through shared memory, which containers have little of.
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
