"""A server that has settled looks for garbage among what is new, and still finds it."""

import subprocess
import sys

PROGRAM = """
import gc, time, weakref
import torch
from stingy_server.process.gc_tuning import settle, settle_again

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

unsettled = pause()
settle_again()
assert gc.get_freeze_count() == 0  # nothing, where the process never settled
gone, later = Version(), Version()
seen = [weakref.ref(gone), weakref.ref(later)]
del gone
settle()
assert seen[0]() is None
assert gc.get_freeze_count() > 100_000
print(unsettled / pause())
del later
gc.collect()
assert seen[1]() is not None  # it was to stay
settle_again()
assert seen[1]() is None
unnoticed = [Version() for _ in range(10)]
refs = [weakref.ref(each) for each in unnoticed]
del unnoticed
kept = [[] for _ in range(60_000)]
assert all(ref() is None for ref in refs)  # found without being asked
"""


def test_a_settled_process_is_not_stopped_for_what_stays_and_finds_what_goes() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=120
    )
    assert float(said.stdout) > 10  # times as long, when nothing was set aside
