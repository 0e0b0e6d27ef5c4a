"""A Docker engine of its own, in a folder, for a machine that has no engine and no registry.

To build, it uses the network of the host and touches nothing there. To run, it has a network
namespace of its own, so that its bridges and rules never meet those of the machine.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

# Debian's client. Another one in the path may need a plug-in to build.
DOCKER = "/usr/bin/docker"
PACKAGES = {"dockerd": "docker.io", "mmdebstrap": "mmdebstrap"}
# Debian has Compose's second version since trixie. Only its one program is taken from there, from
# the mirror of this machine.
TRIXIE = """\
Types: deb
URIs: {mirror}
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
START_S = 60
Command = list[str | Path]
NEW_NETWORK = 0x40000000


def own_mirror() -> str:
    """Return the address from which this machine's apt takes its first packages."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return listed.split()[0]


class Engine:
    """An engine whose images, containers and sockets are below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._namespace = folder / "network"
        self._socket = f"unix://{folder}/sock"
        self._compose = folder / "compose"

    def install(self) -> None:
        """Install what is missing of Docker, and unpack Compose into the folder."""
        apt_get("update")
        for program, package in PACKAGES.items():
            if not (Path("/usr/bin") / program).exists() and shutil.which(program) is None:
                apt_get("install", "--yes", "--no-install-recommends", package)
        self._unpack_compose()

    def _unpack_compose(self) -> None:
        if self._compose.exists():
            return
        apt = self.folder / "apt"
        for name in ("lists/partial", "cache/archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "trixie.sources").write_text(TRIXIE.format(mirror=own_mirror()), encoding="utf-8")
        own = [
            *("-o", f"Dir::Etc::sourcelist={apt}/trixie.sources", "-o", "Dir::Etc::sourceparts=-"),
            *("-o", f"Dir::State::lists={apt}/lists", "-o", f"Dir::Cache={apt}/cache"),
        ]
        apt_get(*own, "update")
        apt_get(*own, "download", "docker-compose", cwd=apt)
        (package,) = apt.glob("docker-compose_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, apt / "x"], check=True)
        shutil.copy(apt / "x/usr/libexec/docker/cli-plugins/docker-compose", self._compose)

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Run the daemon to build images, on the network of the host."""
        off = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
        with self._daemon("--bridge=none", *off):
            yield

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the daemon for containers, and move this thread into their network namespace."""
        self._namespace.touch()
        subprocess.run(
            ["unshare", f"--net={self._namespace}", "ip", "link", "set", "lo", "up"], check=True
        )
        try:
            with inside(self._namespace), self._daemon():
                yield
        finally:
            subprocess.run(["umount", self._namespace], check=False)

    @contextlib.contextmanager
    def _daemon(self, *options: str) -> Iterator[None]:
        command: Command = ["dockerd", "--host", self._socket, *options]
        command += ["--storage-driver", "overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs"]
        command += ["--data-root", self.folder / "docker", "--exec-root", self.folder / "exec"]
        command += ["--pidfile", self.folder / "pid"]
        with (self.folder / "dockerd.log").open("ab") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            self._await(daemon)
            yield
        finally:
            daemon.terminate()
            daemon.wait(START_S)

    def _await(self, daemon: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_S
        while daemon.poll() is None and time.monotonic() < deadline:
            command = [DOCKER, "--host", self._socket, "version"]
            if not subprocess.run(command, capture_output=True).returncode:
                return
            time.sleep(0.5)
        raise AssertionError((self.folder / "dockerd.log").read_text(errors="replace")[-4000:])

    def docker(self, *arguments: str | Path, shown: bool = False) -> str:
        """Run a command of Docker's client, and return what it prints on stdout.

        Args:
            shown: whether its output goes to the terminal instead.
        """
        command: Command = [DOCKER, *arguments]
        return self._run(command, {}, shown=shown)

    def build(self, file: Path, tag: str, *, context: Path) -> None:
        """Build an image, and drop what the build leaves behind."""
        self.docker("build", "--network=host", "--file", file, "--tag", tag, context, shown=True)
        self.docker("builder", "prune", "--all", "--force")

    def compose(
        self, file: Path, *arguments: str, environment: Mapping[str, str], shown: bool = False
    ) -> str:
        """Run a command of Compose, and return what it prints on stdout."""
        command: Command = [self._compose, "--file", file, *arguments]
        return self._run(command, environment, shown=shown)

    def _run(self, command: Command, environment: Mapping[str, str], *, shown: bool) -> str:
        own = {"DOCKER_HOST": self._socket, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
        done = subprocess.run(
            command,
            env={**os.environ, **own, **environment},
            stdout=None if shown else subprocess.PIPE,
            stderr=None if shown else subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            text = "" if shown else done.stdout + done.stderr
            raise AssertionError(f"{' '.join(map(str, command))}: {done.returncode}\n{text}")
        return "" if shown else done.stdout


def apt_get(*arguments: str, cwd: Path | None = None) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "-q", *arguments], env=environment, cwd=cwd, check=True)


@contextlib.contextmanager
def inside(namespace: Path) -> Iterator[None]:
    """Move this thread, and the threads and programs that it starts, into a network namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        other = os.open(namespace, os.O_RDONLY)
        try:
            _enter(other)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _enter(before)
    finally:
        os.close(before)


def _enter(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, NEW_NETWORK):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
