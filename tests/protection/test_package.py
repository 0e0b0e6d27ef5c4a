"""The public names of the package load on first use."""

import pytest

import stingy_protection


def test_every_public_name_loads() -> None:
    for name in stingy_protection.__all__:
        assert getattr(stingy_protection, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        stingy_protection.nothing  # noqa: B018
