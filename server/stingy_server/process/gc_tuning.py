"""Garbage collection in a process that serves: rare, and never over long-lived objects.

Modules and models are some hundred thousand objects. A collection over all of them stops every
request for the time of a hundred answers.
"""

import atexit
import gc

YOUNG_OBJECTS = 20_000  # live new objects that start a collection of the young; Python has 700


def freeze_gc() -> None:
    """Collect once, then freeze the surviving objects so that later collections skip them.

    They are collected when the process ends. Otherwise extensions such as Triton's, which count
    their objects, would report those in cycles as leaked.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    atexit.unregister(gc.unfreeze)  # of an earlier call
    atexit.register(gc.unfreeze)
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)


def refreeze_gc() -> None:
    """Freeze again after frozen objects were dropped, if this process has frozen any."""
    # Python 3.12 freezes some objects at its start, so the number of frozen ones says nothing.
    if gc.get_threshold()[0] == YOUNG_OBJECTS:
        freeze_gc()
