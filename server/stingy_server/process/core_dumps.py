"""No core dumps, which would hold the model's weights and the raw logits."""

import resource


def forbid_core_dumps() -> None:
    """No crash writes the model's memory to a disk, not even where dumps go to a program.

    Linux asks such a program in spite of a limit of 0, but not of 1 (fs/coredump.c), and no file
    is that small.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 0 if most == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
