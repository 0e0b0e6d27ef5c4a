"""Garbage collection after a freeze: short pauses, and new garbage is still found."""

import subprocess
import sys

PROGRAM = """
import gc, time, weakref
import torch
from stingy_server.process.gc_tuning import freeze_gc, refreeze_gc

class Version:
    def __init__(self):
        self.itself = self

def pause():
    # The shortest of five collections, in seconds: a busy machine lengthens some of them.
    pauses = []
    def note(phase, info):
        pauses.append(time.perf_counter())
    gc.callbacks.append(note)
    for _ in range(5):
        gc.collect()
    gc.callbacks.remove(note)
    return min(pauses[2 * n + 1] - pauses[2 * n] for n in range(5))

unfrozen = pause()
before = gc.get_freeze_count()  # some objects, if Python is 3.12
refreeze_gc()
assert gc.get_freeze_count() == before  # no effect before the first freeze
first, later = Version(), Version()
observed = [weakref.ref(first), weakref.ref(later)]
del first
freeze_gc()
assert observed[0]() is None
assert gc.get_freeze_count() > 100_000
print(unfrozen / pause())
del later
gc.collect()
assert observed[1]() is not None  # frozen objects are not collected
refreeze_gc()
assert observed[1]() is None
garbage = [Version() for _ in range(10)]
refs = [weakref.ref(each) for each in garbage]
del garbage
survivors = [[] for _ in range(60_000)]
assert all(ref() is None for ref in refs)  # found without a call
"""


def test_frozen_process_collects_fast_and_finds_new_garbage() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=120
    )
    assert float(completed.stdout) > 10  # times as long, when nothing was frozen


AT_EXIT = """
from stingy_server.process.gc_tuning import freeze_gc

class InCycle:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("deleted", flush=True)

kept = InCycle()
freeze_gc()
freeze_gc()
"""


def test_frozen_cycles_are_deleted_when_the_process_ends() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", AT_EXIT], check=True, capture_output=True, text=True, timeout=120
    )
    assert completed.stdout == "deleted\n"
