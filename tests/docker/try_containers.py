"""Build the images, and run them as docs/deploy.md says: one container, Ray, and all of compose.

    python tests/docker/try_containers.py [--only server torchserve ray compose]

It needs root, Debian 12, a Python of each version that the Dockerfiles name, and 30 GB. It installs
Docker from Debian's packages, and runs it in a folder of its own, which it removes at the end. No
registry is needed: Debian's packages stand for the foreign images. pytest does not run it.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from container_bases import base_of, foreign_images, make_debian, make_python, make_stores
from container_checks import (
    PROGRAMS,
    URL,
    is_ready,
    made_key,
    report,
    rights_of,
    step,
    succeeds,
    until,
)
from container_compose import try_compose
from container_engine import Engine
from docker_files import DOCKER, ROOT
from model_servers import stingy
from serving import Pixels, make_bundle, random_images
from stingy_clients import Client

IMAGES = {"server": "stingy", "torchserve": "stingy-torchserve", "ray": "stingy-ray"}
TRIED = (*IMAGES, "compose")
HARDENED = (
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges=true",
)


def present(engine: Engine) -> str:
    """Return the names of the images that there are."""
    return engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}")


def build(engine: Engine, name: str) -> None:
    base = base_of(f"{name}.Dockerfile")
    if base not in present(engine):
        with step(f"base of {name}"):
            make_python(engine, base)
    with step(f"build of {name}"):
        engine.build(DOCKER / f"{name}.Dockerfile", IMAGES[name], context=ROOT)
    size = int(engine.docker("image", "inspect", "--format", "{{.Size}}", IMAGES[name]))
    report(f"size of {IMAGES[name]}: {size / 1e9:.2f} GB")


def show_programs(engine: Engine, image: str) -> None:
    command = ("run", "--rm", "--entrypoint", "python", image, "-c", PROGRAMS)
    report(f"programs in {image}:", *sorted(set(engine.docker(*command).split())))
    for program in (("pip",), ("python", "-m", "pip"), ("sh",)):
        try:
            engine.docker("run", "--rm", "--entrypoint", program[0], image, *program[1:])
        except AssertionError:
            continue
        raise AssertionError(f"{image} has {' '.join(program)}")


def try_server(engine: Engine, folder: Path, images: Pixels) -> None:
    """Run the server alone, as docs/deploy.md does, with SQLite in a volume."""
    show_programs(engine, "stingy")
    engine.docker(
        *("run", "--detach", *HARDENED, "--publish", "127.0.0.1:8080:8080"),
        *("--volume", f"{folder}/bundles:/bundles:ro", "--volume", "stingy-state:/state"),
        *("--name", "stingy", "stingy", "serve", "/bundles/pets"),
    )
    report(f"ready after {until(lambda: is_ready(URL)):.1f} s")
    health = ("inspect", "--format", "{{.State.Health.Status}}", "stingy")
    more = until(lambda: engine.docker(*health).strip() == "healthy")
    report(f"healthy {more:.1f} s later")
    report("rights:", *rights_of(engine, "stingy"))
    create = ("stingy", "keys", "create", "alice", "--budget", "500", "--json")
    key = made_key(engine.docker("exec", "stingy", *create))
    with Client(URL, key) as client:
        assert len(client.predict_batch(images)) == len(images)
        assert client.usage().used == len(images)
    report(engine.docker("exec", "stingy", "stingy", "state", "check").strip())
    engine.docker("stop", "stingy")
    status = engine.docker("inspect", "--format", "{{.State.ExitCode}}", "stingy").strip()
    assert status == "0", status
    engine.docker("rm", "--volumes", "stingy")


def try_torchserve(engine: Engine, folder: Path, images: Pixels) -> None:
    """Look into the image. Compose runs it."""
    show_programs(engine, "stingy-torchserve")


def try_ray(engine: Engine, folder: Path, images: Pixels) -> None:
    """Run one node of Ray with the edge and a model on it."""
    state = folder / "ray"
    state.mkdir(mode=0o777)
    state.chmod(0o777)
    (folder / "stingy.toml").write_text(
        'state = "/state"\n[[models]]\nbundle = "/bundles/pets"\n'
        "[ray.model]\nnum_cpus = 0.5\n[ray.edge]\nnum_cpus = 0.5\n",
        encoding="utf-8",
    )
    (folder / "serve.yaml").write_text(
        "http_options: {host: 0.0.0.0, port: 8000}\n"
        "applications:\n  - name: stingy\n    route_prefix: /\n"
        "    import_path: stingy_server.ray_serve.app:app\n",
        encoding="utf-8",
    )
    variables = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    engine.docker(
        *("run", "--detach", *HARDENED, "--shm-size", "2g", "--name", "ray"),
        *("--publish", "127.0.0.1:8000:8000", "--workdir", "/etc/stingy"),
        *("--volume", f"{folder}/stingy.toml:/etc/stingy/stingy.toml:ro"),
        *("--volume", f"{folder}/serve.yaml:/etc/stingy/serve.yaml:ro"),
        *("--volume", f"{folder}/bundles:/bundles:ro", "--volume", f"{state}:/state"),
        *(part for name, value in variables.items() for part in ("--env", f"{name}={value}")),
        *("stingy-ray", "ray", "start", "--head", "--block", "--num-cpus", "2"),
        *("--disable-usage-stats", "--include-dashboard", "true"),
    )
    create = ("stingy", "keys", "create", "alice", "--budget", "500", "--json")
    key = made_key(engine.docker("exec", "ray", *create))
    until(lambda: succeeds(lambda: engine.docker("exec", "ray", "ray", "status")))
    until(lambda: succeeds(lambda: engine.docker("exec", "ray", "serve", "deploy", "serve.yaml")))

    def answered() -> bool:
        with Client("http://127.0.0.1:8000", key) as client:
            return len(client.predict_batch(images)) == len(images)

    report(f"Ray answers after {until(lambda: succeeds(answered)):.0f} s")
    report(engine.docker("exec", "ray", "serve", "status").strip())
    engine.docker("rm", "--force", "--volumes", "ray")


def make_files(folder: Path) -> Pixels:
    """Make the bundle and the archive that the containers mount. Return images to query."""
    (folder / "bundles").mkdir()
    bundle = make_bundle(
        folder / "bundles" / "pets",
        factory="stingy_attacker_eval.students:cnn",
        name="pets",
        policy="stingy:n=3",
        width=4,
        gain=1.0,
    )
    stingy("torchserve", "archive", bundle, "--export-path", folder / "archives")
    for name in ("bundles", "archives"):
        for path in (folder / name, *(folder / name).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    return random_images(8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=TRIED, default=TRIED)
    parser.add_argument("--folder", type=Path, help="to keep images for another run")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("expected to run as root, which Docker's daemon needs")
    wanted = set(options.only)
    needed = [name for name in IMAGES if name in wanted]
    if "compose" in wanted:
        needed = [*dict.fromkeys(["server", "torchserve", *needed])]
    folder: Path = options.folder or Path(tempfile.mkdtemp(prefix="stingy-", dir="/var/tmp"))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    engine = Engine(folder)
    began = time.monotonic()
    try:
        with step("install"):
            engine.install()
        with engine.building():
            if "prometheus" not in present(engine):
                with step("Debian and the stores"):
                    make_debian(engine)
                    make_stores(engine, foreign_images())
            for name in needed:
                if f"{IMAGES[name]}:latest" not in present(engine).split():
                    build(engine, name)
        used = folder / "files"
        shutil.rmtree(used, ignore_errors=True)
        used.mkdir()
        images = make_files(used)
        with engine.running():
            for name, tried in {
                "server": try_server,
                "torchserve": try_torchserve,
                "compose": try_compose,
                "ray": try_ray,
            }.items():
                if name in wanted:
                    with step(f"try {name}"):
                        tried(engine, used, images)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    report(f"all in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
