"""A server that has settled looks for garbage among what is new, and still finds it."""

import subprocess
import sys

PROGRAM = """
import gc, time, weakref
import torch
from stingy_server.process.gc_tuning import freeze_gc, refreeze_gc

class Version:
    def __init__(self):
        self.itself = self

refreeze_gc()
assert gc.get_freeze_count() == 0  # nothing, where the process never froze
gone, later = Version(), Version()
observed = [weakref.ref(gone), weakref.ref(later)]
del gone
freeze_gc()
assert observed[0]() is None
assert gc.get_freeze_count() > 100_000
pauses = []
def note(phase, info):
    pauses.append(time.perf_counter())
gc.callbacks.append(note)
gc.collect()
gc.callbacks.remove(note)
print(pauses[1] - pauses[0])
del later
gc.collect()
assert observed[1]() is not None  # it was to stay
refreeze_gc()
assert observed[1]() is None
unnoticed = [Version() for _ in range(10)]
refs = [weakref.ref(each) for each in unnoticed]
del unnoticed
survivors = [[] for _ in range(60_000)]
assert all(ref() is None for ref in refs)  # found without being asked
"""


def test_frozen_process_collects_only_new_garbage() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=120
    )
    assert float(said.stdout) < 0.02
