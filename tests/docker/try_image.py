"""Run the steps of a Dockerfile without a container engine, and query the server of the image.

    python tests/docker/try_image.py server [--index ADDRESS]

The steps run in an overlay over this machine's root, which replaces the base image, and leave
nothing behind. The image's program is then started there without rights, on a read-only root, in a
network of its own. The script needs root, git and the overlay file system. pytest does not run it,
because the install takes minutes and 6 GB.
"""

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from rich.console import Console

from docker_files import DOCKER, ROOT, instructions

NEW_MOUNTS, NEW_NETWORK = 0x00020000, 0x40000000
# The rights that chroot needs until it becomes the image's user, which has none.
NO_RIGHTS = "-all,+sys_chroot,+setuid,+setgid"
READY_S = 120
# Full paths, because these programs run with the PATH of the image.
SETPRIV, CHROOT = (shutil.which(name) or name for name in ("setpriv", "chroot"))
report = Console(highlight=False, markup=False, soft_wrap=True).print


@dataclass
class Image:
    """A root in which the steps were run, and the options to start its programs."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)

    def step(self, name: str, value: str, arguments: dict[str, str]) -> None:
        """Run one instruction of the Dockerfile."""
        match name:
            case "FROM":  # all stages share one root
                self.environment, self.user = {}, "0:0"
            case "ARG":
                argument, _, default = value.partition("=")
                arguments.setdefault(argument, default.strip('"'))
            case "ENV":
                self.environment |= dict(pair.split("=", 1) for pair in value.split())
            case "USER":
                self.user = value
            case "ENTRYPOINT":
                self.entrypoint = json.loads(value)
            case "HEALTHCHECK":
                self.health = json.loads(value.partition("CMD ")[2])
            case "COPY" if not value.startswith("--from="):
                self._copy(*value.split())
            case "RUN":
                command = json.loads(value) if value.startswith("[") else ["/bin/sh", "-c", value]
                report(f"RUN {value}")
                path = {"PATH": f"/usr/local/bin:{os.environ['PATH']}"}
                subprocess.run(
                    [CHROOT, self.root, *command],
                    env={**os.environ, **path, **self.environment, **arguments},
                    check=True,
                )

    def start(self, *command: str, **options: Any) -> "subprocess.Popen[str]":
        """Start a program of the image, as its user."""
        rights = (SETPRIV, "--no-new-privs", f"--bounding-set={NO_RIGHTS}")
        user = (CHROOT, f"--userspec={self.user}", "--groups=", self.root)
        return subprocess.Popen(
            [*rights, *user, *command], env=self.environment, text=True, **options
        )

    def output_of(self, *command: str) -> str:
        """Run a program of the image and return what it prints."""
        process = self.start(*command, stdout=subprocess.PIPE)
        output, _ = process.communicate(timeout=READY_S)
        assert process.returncode == 0, command
        return output.strip()

    def _copy(self, source: str, target: str) -> None:
        listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--", source]
        names = subprocess.check_output(listed, text=True).split("\0")
        for name in filter(None, names):
            inside = Path(target) / name if source == "." else Path(target)
            copy = self.root / inside.relative_to("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy)


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def make_root(folder: Path) -> Path:
    """Mount an overlay over this machine's root, with its Python at the base image's path."""
    layers = {name: folder / name for name in ("upper", "work", "root")}
    for layer in layers.values():
        layer.mkdir()
    root = layers["root"]
    options = f"lowerdir=/,upperdir={layers['upper']},workdir={layers['work']}"
    mount("-t", "overlay", "overlay", "-o", options, root)
    for name in ("proc", "dev"):
        mount("--rbind", f"/{name}", root / name)
    python = root / "usr/local/bin/python"
    python.unlink(missing_ok=True)
    # A script, because through a link Python would look for its library beside the link.
    python.write_text(f'#!/bin/sh\nexec {Path(sys.executable).resolve()} "$@"\n')
    python.chmod(0o755)
    (root / "root").chmod(0o755)  # because this machine's Python may be in there
    return root


def try_server(image: Image, bundle: Path) -> None:
    """Start the image, print its rights, and query it as a customer and Prometheus would."""
    for name in ("bundles", "state"):
        (image.root / name).mkdir(exist_ok=True)
    mount("-t", "tmpfs", "tmpfs", image.root / "tmp")
    uid, _, gid = image.user.partition(":")
    mount("-t", "tmpfs", "-o", f"uid={uid},gid={gid},mode=700", "tmpfs", image.root / "state")
    mount("--bind", "-o", "ro", bundle.parent, image.root / "bundles")
    mount("-o", "remount,ro", image.root)
    _unshare(NEW_NETWORK)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    key = json.loads(image.output_of("stingy", "keys", "create", "alice", "--json"))["key"]
    server = image.start(*image.entrypoint, "serve", f"/bundles/{bundle.name}")
    try:
        _wait(server)
        status = Path(f"/proc/{server.pid}/status").read_text()
        for line in ("Uid", "Gid", "CapEff", "NoNewPrivs", "VmHWM"):
            report(next(found for found in status.splitlines() if found.startswith(line)))
        report("programs in /usr/bin, /usr/sbin:", _programs(image.root))
        report("written:", image.output_of("python", "-c", WRITE))
        report("listening:", _listening())
        image.output_of(*image.health)
        request = urllib.request.Request(
            f"http://127.0.0.1:8080/v1/predict/{bundle.name}",
            data=(bundle.parent / "image.png").read_bytes(),
            headers={"Authorization": f"Bearer {key}"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            report("answered:", response.status, response.read().decode())
        with urllib.request.urlopen("http://127.0.0.1:9100/metrics", timeout=30) as page:
            output = page.read().decode()
            report(next(x for x in output.splitlines() if x.startswith("stingy_requests_total")))
        report(image.output_of("stingy", "keys", "list", "--json"))
    finally:
        server.terminate()
        report("ended with status", server.wait(timeout=60))


# Runs in the image and prints the folders that its user may write to.
WRITE = """
import pathlib
for folder in ("/", "/opt/stingy", "/usr/local", "/bundles", "/state", "/tmp"):
    try:
        (pathlib.Path(folder) / "written").touch()
    except OSError:
        continue
    print(folder, end=" ")
"""


def _programs(root: Path) -> list[str]:
    folders = (root / "usr/bin", root / "usr/sbin")
    return [path.name for folder in folders if folder.is_dir() for path in folder.iterdir()]


def _listening() -> list[str]:
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    found = [line.split()[1].split(":") for line in lines if line.split()[3] == "0A"]
    return sorted(f"{'*' if host == '00000000' else host}:{int(port, 16)}" for host, port in found)


def _wait(server: "subprocess.Popen[str]") -> None:
    for _ in range(READY_S * 2):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen("http://127.0.0.1:8080/v2/health/ready", timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the server did not get ready")


def _unshare(kind: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(kind):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _make_bundle(folder: Path) -> Path:
    from serving import make_bundle, png, random_images

    (folder / "image.png").write_bytes(png(random_images(1)[0]))
    return make_bundle(
        folder / "digits", factory="stingy_attacker_eval.students:cnn", width=4, gain=1.0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(p.stem for p in DOCKER.glob("*.Dockerfile")))
    parser.add_argument("--index", default="", help="TORCH_INDEX")
    options = parser.parse_args()
    path = DOCKER / f"{options.name}.Dockerfile"
    with tempfile.TemporaryDirectory(prefix="stingy-image-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        bundles = folder / "bundles"
        bundles.mkdir()
        bundle = _make_bundle(bundles)
        _unshare(NEW_MOUNTS)
        mount("--make-rprivate", "/")
        image = Image(make_root(folder))
        arguments = {"TORCH_INDEX": options.index}
        try:
            for step in instructions(path):
                image.step(*step, arguments)
            if options.name == "server":
                try_server(image, bundle)
        finally:
            subprocess.run(["umount", "--recursive", "--lazy", image.root], check=True)


if __name__ == "__main__":
    main()
