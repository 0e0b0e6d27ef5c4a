"""The resources that a process and all its descendants use, read from /proc.

Dead processes are counted too: a process that waits for a child inherits its CPU time. Under
`supervise.py` every process that dies is waited for inside the tree.
"""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """The use of a whole tree: processes, CPU seconds, bytes, open files, threads.

    rss: resident bytes, with the pages of files, which the kernel drops and reads again.
    anonymous: resident bytes of no file, which is what the processes have allocated.
    """

    processes: int
    cpu_s: float
    rss: int
    anonymous: int
    files: int
    threads: int


def _stats() -> dict[int, list[str]]:
    """Return the fields of /proc/PID/stat after the process name, by process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):  # the process has ended
                continue
            # The name in parentheses may contain anything, so fields count from its end.
            found[int(entry.name)] = text.rpartition(")")[2].split()
    return found


def descendants(root: int) -> dict[int, list[str]]:
    """Return the processes below `root`, without `root`, with their stat fields."""
    stats = _stats()
    tree: dict[int, list[str]] = {}
    parents = {root}
    while parents:
        children = {pid for pid, fields in stats.items() if int(fields[1]) in parents}
        tree |= {pid: stats[pid] for pid in children}
        parents = children
    return tree


def usage(supervisor: int) -> Usage:
    """Return the use of the tree below a supervisor, dead processes included.

    The supervisor itself is not counted.
    """
    tree = descendants(supervisor)
    own = _stats()[supervisor]
    ticks = int(own[13]) + int(own[14])  # of the dead children that it waited for
    ticks += sum(sum(int(field) for field in fields[11:15]) for fields in tree.values())
    return Usage(
        processes=len(tree),
        cpu_s=ticks / TICKS,
        rss=sum(int(fields[21]) for fields in tree.values()) * PAGE,
        anonymous=sum(_anonymous_pages(pid) for pid in tree) * PAGE,
        files=sum(_open_files(pid) for pid in tree),
        threads=sum(int(fields[17]) for fields in tree.values()),
    )


def _anonymous_pages(pid: int) -> int:
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(resident) - int(shared)


def _open_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0
