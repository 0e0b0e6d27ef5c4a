"""No core dumps, because they would contain the model's weights and the raw logits."""

import resource


def forbid_core_dumps() -> None:
    """Forbid core dumps, also where the system pipes them to a program.

    At a limit of 0 Linux still starts such a program, at a limit of 1 it does not (fs/coredump.c).
    No core file is as small as 1 byte, so none is written to a disk either.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 0 if most == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
