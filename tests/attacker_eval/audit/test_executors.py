"""Students in other processes: at once, with the same numbers, and none left behind."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from rich.console import Console
from torch import nn

from attack_lab import QUICK, attacker_data, striped_oracle
from audit_fakes import FakeOracle, document, save_striped, tiny_protocol
from stingy_attacker_eval.attacks import Attack, AttackContext, Capability
from stingy_attacker_eval.attacks.label_only import LabelOnly
from stingy_attacker_eval.audit.executors import Executor, in_processes, in_turn, on_ray
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.runner import run_audit
from stingy_attacker_eval.audit.train_student import StudentResult, Task
from stingy_attacker_eval.errors import AuditError, BudgetExhausted
from stingy_attacker_eval.training import TrainResult


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def ray_here() -> Executor:
    pytest.importorskip("ray", reason="the package ray is not installed")
    return on_ray()


def audit(protocol: Protocol, out: Path, executor: Executor) -> list[dict[str, Any]]:
    oracle = {"open": FakeOracle(support=3), "stingy": FakeOracle()}
    console = Console(file=StringIO())
    run_audit(protocol, oracles=oracle, out=out, console=console, executor=executor)
    report = run_audit(protocol, oracles=oracle, out=out, console=console)
    rows = document(report)["rows"]
    # Another process tells its own commit, and files may change while tests run.
    left_out = {"seconds", "commit"}
    return [{name: value for name, value in row.items() if name not in left_out} for row in rows]


def protocol_of(folder: Path) -> Protocol:
    attacks = ('"label_only"', '"soft_label"', '{ name = "knockoff", queries = 40 }')
    protocol = tiny_protocol(
        save_striped(folder), attacks=attacks, endpoints=("open", "stingy"), seeds=(0, 1)
    )
    return protocol.model_copy(update={"budget": 184})


@pytest.mark.filterwarnings("ignore")  # of ray's own code
@pytest.mark.parametrize("executor", [lambda: in_processes(2), ray_here], ids=["processes", "ray"])
def test_E4_rows_are_the_same_wherever_students_are_trained(
    tmp_path: Path, executor: Callable[[], Executor]
) -> None:
    protocol = protocol_of(tmp_path)
    distributed = audit(protocol, tmp_path / "elsewhere", executor())
    assert distributed == audit(protocol, tmp_path / "here", in_turn)


def test_querying_attack_runs_in_the_main_process(tmp_path: Path) -> None:
    given: list[str] = []

    def noted(tasks: Iterable[tuple[int, Task]]) -> Iterator[tuple[int, StudentResult]]:
        for number, task in tasks:
            given.append(task.attack.name)
            yield from in_turn([(number, task)])

    rows = audit(protocol_of(tmp_path), tmp_path / "out", noted)
    assert {row["attack"].partition("[")[0] for row in rows} - set(given) == {"knockoff"}


@dataclass(frozen=True, kw_only=True)
class Waits(Attack):
    """Learns once as many as `count` of its kind are under way."""

    name: ClassVar[str] = "waits"
    title: ClassVar[str] = "waits for others"
    reference: ClassVar[str] = "none"
    requires: ClassVar[frozenset[Capability]] = frozenset({Capability.ANSWERS})

    folder: str
    count: int = 2

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        (Path(self.folder) / str(os.getpid())).touch()
        for _ in range(600):
            if len(list(Path(self.folder).iterdir())) >= self.count:
                return TrainResult(True, 0.0, 0.0)
            time.sleep(0.1)
        raise BudgetExhausted("nobody came")


@dataclass(frozen=True, kw_only=True)
class Ends(LabelOnly):
    """Takes its process with it, or raises."""

    status: int

    def train_student(self, student: nn.Module, context: AttackContext) -> TrainResult:
        if self.status:
            os._exit(self.status)
        raise BudgetExhausted("no more")


def task(attack: Attack, *, seed: int = 0) -> Task:
    found = attacker_data(striped_oracle())
    return Task(attack, found, "cnn_tiny", 3, seed, QUICK, found.images)


def test_count_students_are_trained_at_once(tmp_path: Path) -> None:
    tasks = [(number, task(Waits(folder=str(tmp_path)))) for number in range(2)]
    done = dict(in_processes(2)(tasks))
    assert set(done) == {0, 1}
    assert str(os.getpid()) not in {path.name for path in tmp_path.iterdir()}


def test_tasks_are_taken_up_as_places_become_free() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[tuple[int, Task]]:
        for number in range(3):
            taken.append(number)
            yield number, task(LabelOnly(), seed=number)

    results = in_processes(1)(tasks())
    next(results)
    assert taken == [0]
    assert [number for number, _ in results] == [1, 2]


def test_process_that_ends_before_its_student_is_reported() -> None:
    with pytest.raises(AuditError, match="got one that ended before"):
        list(in_processes(1)([(0, task(Ends(status=3)))]))


def test_attack_error_passes_and_leaves_no_process(tmp_path: Path) -> None:
    tasks = [(0, task(Ends(status=0))), (1, task(Waits(folder=str(tmp_path), count=9)))]
    started = time.monotonic()
    with pytest.raises(BudgetExhausted, match="no more"):
        list(in_processes(2)(tasks))
    assert multiprocessing.active_children() == []
    assert time.monotonic() - started < 50  # the other one was not waited for


def test_a_killed_audit_leaves_no_student_behind(tmp_path: Path) -> None:
    audit = multiprocessing.get_context("spawn").Process(target=_wait_for_many, args=[tmp_path])
    audit.start()
    (name,) = _until(lambda: [path.name for path in tmp_path.iterdir()])
    audit.kill()
    audit.join()
    assert _until(lambda: not Path("/proc", name).exists())


def _wait_for_many(folder: Path) -> None:
    list(in_processes(1)([(0, task(Waits(folder=str(folder), count=9)))]))


def _until(found: Callable[[], Any]) -> Any:
    for _ in range(1200):
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError("waited for two minutes")


def test_less_than_one_at_once_is_refused() -> None:
    with pytest.raises(AuditError, match="one student or more"):
        in_processes(0)


def test_a_student_that_ends_before_the_baseline_waits_for_it(tmp_path: Path) -> None:
    def last_first(tasks: Iterable[tuple[int, Task]]) -> Iterator[tuple[int, StudentResult]]:
        yield from in_turn(reversed(list(tasks)))

    protocol = protocol_of(tmp_path)
    turned = audit(protocol, tmp_path / "turned", last_first)
    assert turned == audit(protocol, tmp_path / "straight", in_turn)
