"""Images in the place of foreign ones, made of Debian's packages and of this machine's Pythons.

They have the names that the Dockerfiles and compose.yaml use, and work alike where these use them.
"""

import os
import shutil
import subprocess
from pathlib import Path

from container_engine import Command, Engine
from docker_files import DOCKER, compose, instructions

# What Python was linked with, and what the official images have beside it.
DEBIAN_PACKAGES = (
    "ca-certificates,netbase,tzdata,libssl3,libsqlite3-0,libffi8,zlib1g,liblzma5,libbz2-1.0,"
    "libreadline8,libncursesw6,libuuid1,libexpat1,libgdbm6,libdb5.3,libnsl2,libtirpc3"
)
DEBIAN = "stingy-test-debian"
INSTALL = "RUN apt-get update && apt-get install -y --no-install-recommends"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

PYTHON_FILE = f"""\
FROM {DEBIAN}
COPY local /usr/local
RUN ldconfig && python3 -m ensurepip && ln -s pip3 /usr/local/bin/pip
"""

POSTGRES_FILE = f"""\
FROM {DEBIAN}
RUN mkdir -p /etc/postgresql-common \\
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
{INSTALL} postgresql-15
RUN usermod -u 999 postgres && groupmod -g 999 postgres && rm -rf /var/lib/postgresql \\
    && install -d -o 999 -g 999 -m 700 /var/lib/postgresql/data \\
    && chmod 3777 /var/run/postgresql
COPY start.sh /start.sh
ENV PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/sh", "/start.sh"]
"""
# The part of the official image's entry point that compose.yaml uses.
POSTGRES_START = """\
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" -A scram-sha-256 -E UTF8 \\
        --locale=C.UTF-8
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single postgres
fi
exec postgres -c listen_addresses='*'
"""

REDIS_FILE = f"""\
FROM {DEBIAN}
{INSTALL} redis-server
"""

PROMETHEUS_FILE = f"""\
FROM {DEBIAN}
{INSTALL} prometheus
RUN install -d -o 65534 -g 65534 /prometheus
WORKDIR /prometheus
ENTRYPOINT ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", \\
    "--storage.tsdb.path=/prometheus"]
"""


def make_debian(engine: Engine) -> None:
    """Make the image of Debian 12 under all others, with this machine's authorities."""
    folder = engine.folder / "debian"
    folder.mkdir()
    bootstrap: Command = ["mmdebstrap", "--variant=minbase", f"--include={DEBIAN_PACKAGES}"]
    subprocess.run([*bootstrap, "bookworm", folder / "debian.tar"], check=True)
    lines = ["FROM scratch", "ADD debian.tar /"]
    if (own := os.environ.get("PIP_CERT")) is not None:  # of a proxy, for pip
        shutil.copy(own, folder / "own.crt")
        lines += [f"COPY own.crt {CERTIFICATES}", f"ENV PIP_CERT={CERTIFICATES}"]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    engine.build(folder / "Dockerfile", DEBIAN, context=folder)
    shutil.rmtree(folder)


def make_python(engine: Engine, image: str) -> None:
    """Make an image such as python:3.12-slim-bookworm of this machine's Python."""
    version = image.removeprefix("python:").partition("-")[0]
    prefix = find_python(version)
    folder = engine.folder / "python"
    local = folder / "local"
    for name in ("bin", "lib"):
        (local / name).mkdir(parents=True)
    name = f"python{version}"
    shutil.copy(prefix / "bin" / name, local / "bin")
    for link in ("python3", "python"):
        (local / "bin" / link).symlink_to(name)
    for library in (prefix / "lib").glob(f"libpython{version}.so*"):
        shutil.copy(library, local / "lib")
    left_out = shutil.ignore_patterns("site-packages", "test", "__pycache__", "config-*", "idlelib")
    shutil.copytree(prefix / "lib" / name, local / "lib" / name, ignore=left_out)
    (local / "lib" / name / "site-packages").mkdir()
    (folder / "Dockerfile").write_text(PYTHON_FILE, encoding="utf-8")
    engine.build(folder / "Dockerfile", image, context=folder)
    shutil.rmtree(folder)


def find_python(version: str) -> Path:
    """Return the folder of an installed Python of a version, such as 3.12.

    Raises:
        AssertionError: there is none, in the path or of pyenv.
    """
    name = f"python{version}"
    pyenv = Path.home() / ".pyenv/versions"
    code = "import sys; print(sys.base_prefix)"
    for candidate in (*pyenv.glob(f"{version}.*/bin/{name}"), shutil.which(name)):
        if candidate is None:
            continue
        found = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        if not found.returncode:
            return Path(found.stdout.strip())
    raise AssertionError(f"expected an installed Python {version}, got none")


def make_stores(engine: Engine, images: dict[str, str]) -> None:
    """Make stand-ins for the images of PostgreSQL, Redis and Prometheus, by their services."""
    files = {"postgres": POSTGRES_FILE, "redis": REDIS_FILE, "prometheus": PROMETHEUS_FILE}
    folder = engine.folder / "stores"
    folder.mkdir()
    (folder / "start.sh").write_text(POSTGRES_START, encoding="utf-8")
    for service, text in files.items():
        file = folder / f"{service}.Dockerfile"
        file.write_text(text, encoding="utf-8")
        engine.build(file, images[service], context=folder)
    shutil.rmtree(folder)


def base_of(name: str) -> str:
    """Return the image that a Dockerfile of docker/ begins with."""
    return next(value.split()[0] for step, value in instructions(DOCKER / name) if step == "FROM")


def foreign_images() -> dict[str, str]:
    """Return the images of compose.yaml that it does not build, by their services."""
    services = compose()["services"]
    return {name: each["image"] for name, each in services.items() if "build" not in each}
