"""Run a server as a tree of processes that none can leave: `python supervise.py COMMAND...`.

As the sub-reaper, this process inherits every orphan below it. So the orphan's CPU time is counted,
and the orphan ends when the server ends. SIGTERM stops the server gently, then kills what is left.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

from proctree import descendants

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE_S = 15.0


class _Stop(Exception):
    """SIGTERM was received."""


def _on_sigterm(*_: object) -> None:
    raise _Stop


def main(command: list[str]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, _on_sigterm)
    child = subprocess.Popen(command)  # noqa: S603
    status = 0
    try:
        while True:
            pid, status = os.wait()
            if pid == child.pid:
                break
    except _Stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_gently(child.pid)
    _end_all()
    return os.waitstatus_to_exitcode(status) & 0xFF


def _end_gently(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == pid:
                return
        except ChildProcessError:
            return
        time.sleep(0.02)


def _end_all() -> None:
    """Kill all processes that are left, repeatedly, because one may have forked meanwhile."""
    while left := descendants(os.getpid()):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
