"""What a process and all its descendants use, read from /proc.

The dead are counted too: whoever waited for a child carries its CPU time, and under
`supervise.py` nobody dies without being waited for inside the tree.
"""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Of a whole tree: processes, CPU seconds so far, resident bytes, open files, threads."""

    processes: int
    cpu_s: float
    rss: int
    files: int
    threads: int


def _stats() -> dict[int, list[str]]:
    """The fields of /proc/PID/stat from the state on, by process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):  # ended just now
                continue
            # The name in parentheses may hold anything, so fields count from its end.
            found[int(entry.name)] = text.rpartition(")")[2].split()
    return found


def descendants(root: int) -> dict[int, list[str]]:
    """The processes below `root`, itself not among them, with their stat fields."""
    stats = _stats()
    tree: dict[int, list[str]] = {}
    parents = {root}
    while parents:
        children = {pid for pid, fields in stats.items() if int(fields[1]) in parents}
        tree |= {pid: stats[pid] for pid in children}
        parents = children
    return tree


def usage(supervisor: int) -> Usage:
    """What the tree below a supervisor uses, with what died in it; not the supervisor itself."""
    tree = descendants(supervisor)
    own = _stats()[supervisor]
    ticks = int(own[13]) + int(own[14])  # of the dead that it waited for
    ticks += sum(sum(int(field) for field in fields[11:15]) for fields in tree.values())
    return Usage(
        processes=len(tree),
        cpu_s=ticks / TICKS,
        rss=sum(int(fields[21]) for fields in tree.values()) * PAGE,
        files=sum(_count(pid) for pid in tree),
        threads=sum(int(fields[17]) for fields in tree.values()),
    )


def _count(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0
