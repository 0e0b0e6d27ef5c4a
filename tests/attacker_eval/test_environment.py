"""The source commit of a report."""

import shutil
import subprocess
from pathlib import Path

import pytest

from stingy_attacker_eval.environment import find_commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    result = subprocess.run(
        ["git", "-C", str(folder), *author, *arguments], check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


def test_commit_is_marked_if_tracked_files_differ(tmp_path: Path) -> None:
    code, other = tmp_path / "code" / "a.py", tmp_path / "b.py"
    code.parent.mkdir()
    code.write_text("1\n")
    other.write_text("1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("")
    code.touch()
    assert find_commit(code) == head
    other.write_text("2\n")
    assert find_commit(code) == f"{head}+changes"
    git(tmp_path, "add", ".")
    assert find_commit(code) == f"{head}+changes"


def test_untracked_file_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    installed = tmp_path / "a.py"
    installed.write_text("")
    assert find_commit(installed) is None
    assert find_commit(tmp_path / "nowhere" / "a.py") is None
