"""How Python looks for garbage in a process that serves: rarely, and never among what stays.

Modules and models are some hundred thousand objects. To look through them all stops every request
for as long as a hundred answers take.
"""

import gc

YOUNG = 20_000  # objects made and not yet gone before the young are looked through; Python has 700


def freeze_gc() -> None:
    """What is alive now stays: look at it once more, and then no more."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)


def refreeze_gc() -> None:
    """After something that was to stay has gone, in a process that had settled."""
    if gc.get_freeze_count():
        freeze_gc()
