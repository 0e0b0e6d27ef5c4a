"""Settings and fixtures of all tests."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from postgres import Running
    from redis_server import RunningRedis

# One thread, because the tests' networks are tiny and more threads only compete.
torch.set_num_threads(1)
# A busy machine draws examples slowly, which is no fault of the code.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `cuda` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Start Chromium at the first use."""
    from browser import chromium, program

    if (found := program()) is None:
        pytest.skip("needs chromium (apt-get install chromium)")
    with chromium(found) as running:
        yield running


@pytest.fixture(scope="session")
def postgres_server() -> "Iterator[Running]":
    """Start a PostgreSQL server at the first use."""
    pytest.importorskip("psycopg")
    from postgres import postgres, programs

    if (folder := programs()) is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres(folder, fsync="off") as running:
        yield running


@pytest.fixture
def address(postgres_server: "Running") -> Iterator[str]:
    """Create an empty PostgreSQL database for one test, and return its address."""
    address = postgres_server.new_database()
    yield address
    postgres_server.drop_database(address)  # hundreds of them take minutes to delete at the end


@pytest.fixture
def pooled_address(postgres_server: "Running", address: str) -> Iterator[str]:
    """Return the address of an empty database behind a PgBouncer in transaction mode."""
    from pgbouncer import pgbouncer, program

    if (found := program()) is None:
        pytest.skip("needs pgbouncer (apt-get install pgbouncer)")
    with pgbouncer(found, postgres_server) as port:
        yield address.replace(f":{postgres_server.port}/", f":{port}/")


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[RunningRedis]":
    """Start a Redis server for one test."""
    from redis_server import program, redis_server

    if (found := program()) is None:
        pytest.skip("needs redis-server (apt-get install redis-server)")
    with redis_server(found, tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> str | None:
    """Return each kind of store: None for the file in the state folder, or an address."""
    return None if request.param == "sqlite" else str(request.getfixturevalue("address"))
