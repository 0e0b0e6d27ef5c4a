"""A bundle, and a server that soon gives up slow clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import make_bundle, make_key, served

SHORT_TIMEOUTS = {"STINGY_HEADER_TIMEOUT_S": "1", "STINGY_BODY_TIMEOUT_S": "2"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "digits", policy="stingy:n=2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[tuple[str, str]]:
    """Start a server with short timeouts, and yield its address and a key."""
    state = tmp_path_factory.mktemp("server") / "state"
    key = make_key(state)
    with served(bundle, state=state, **SHORT_TIMEOUTS) as (url, _):
        yield url, key
