"""Metrics of several processes: each start counts in a folder of its own."""

import os
from pathlib import Path

from stingy_server.observability.metrics import MULTIPROCESS_DIR, shared_between_processes


def test_P6_second_start_keeps_the_counts_of_a_running_one(tmp_path: Path) -> None:
    with shared_between_processes(tmp_path):
        counts = Path(os.environ[MULTIPROCESS_DIR]) / "counter_1.db"
        counts.touch()
        with shared_between_processes(tmp_path):
            assert Path(os.environ[MULTIPROCESS_DIR]) != counts.parent
        assert counts.exists()
    assert not counts.parent.exists()


def test_counts_of_a_killed_start_are_removed(tmp_path: Path) -> None:
    killed = tmp_path / "start-killed"
    killed.mkdir()
    (killed / "lock").touch()  # its process is gone, so nobody has the lock
    with shared_between_processes(tmp_path):
        assert not killed.exists()
