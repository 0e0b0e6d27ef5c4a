"""The secrets of compose.yaml: made once, closed to other users, and consistent."""

import shutil
import socket
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from docker_scripts import make_secrets
from stingy_server import ModelSettings, Settings


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make_secrets(tmp_path / "secrets", model="pets")
    return tmp_path / "secrets"


def test_only_the_owner_may_enter_the_folder(made: Path) -> None:
    assert made.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {0o444}


def test_edge_settings_have_the_stores_passwords(made: Path) -> None:
    settings = tomllib.loads((made / "stingy.toml").read_text())
    password = (made / "postgres_password").read_text()
    assert len(password) >= 32
    assert settings["store"] == f"postgresql://stingy:{password}@postgres/stingy"
    redis_password = (made / "redis.conf").read_text().splitlines()[0].removeprefix("requirepass ")
    assert settings["rate_store"] == f"redis://:{redis_password}@redis:6379"
    assert len({password, redis_password, (made / "grafana_password").read_text()}) == 3


def test_secrets_are_not_made_twice(made: Path) -> None:
    before = (made / "postgres_password").read_text()
    with pytest.raises(FileExistsError):
        make_secrets(made, model="pets")
    assert (made / "postgres_password").read_text() == before


def test_server_accepts_the_settings(made: Path) -> None:
    settings = tomllib.loads((made / "stingy.toml").read_text())
    unknown = set(settings) - set(Settings.model_fields)
    unknown |= set(settings["models"][0]) - set(ModelSettings.model_fields)
    assert unknown == set()
    Settings(**settings)


def test_redis_starts_and_requires_the_password(made: Path, tmp_path: Path) -> None:
    if (redis := shutil.which("redis-server")) is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    password = (made / "redis.conf").read_text().splitlines()[0].removeprefix("requirepass ")
    with subprocess.Popen(
        [redis, made / "redis.conf", "--port", str(port), "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            assert _send(port, b"PING\r\n").startswith(b"-NOAUTH")
            assert _send(port, f"AUTH {password}\r\n".encode()) == b"+OK\r\n"
        finally:
            process.terminate()


def _send(port: int, command: bytes) -> bytes:
    for _ in range(600):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(command)
                return connection.recv(100)
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise AssertionError("redis-server did not start")
