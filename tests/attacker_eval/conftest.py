"""Fixtures of the audit's tests."""

from pathlib import Path

import pytest

from audit_fakes import save_striped


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    return save_striped(tmp_path)
