"""Try an installed Stingy, in the environment of the Python that runs this.

    probe.py PROBE [PROBE ...]

It imports nothing of the repository. A probe that fails ends it with a traceback.
"""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("stingy")
SERVE_S = 120


def run(*arguments: str | Path, status: int = 0) -> str:
    """Run a command of the program, and return what it prints."""
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=SERVE_S)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def base() -> None:
    """Run the client, which names the extra that a command lacks."""
    assert version("stingy") in run("--version")
    run("predict", "--help")
    try:
        version("fastapi")
    except PackageNotFoundError:
        assert "pip install 'stingy[server]'" in run("serve", "nowhere", status=2)


def write_bundle(folder: Path) -> Path:
    import torch

    from stingy_attacker_eval.students import cnn
    from stingy_protection import Preprocessing, write_bundle

    torch.manual_seed(0)
    write_bundle(
        folder,
        model=cnn(num_classes=10, width=4),
        name="digits",
        version="1",
        factory="stingy_attacker_eval.students:cnn",
        arguments={"num_classes": 10, "width": 4},
        classes=tuple("0123456789"),
        preprocessing=Preprocessing(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3),
        policy="stingy:n=2",
    )
    return folder


def serve(*options: str) -> None:
    """Serve a bundle, which answers an image and charges it."""
    import numpy as np

    from stingy_clients import Client

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        state = ("--state", folder / "state")
        made = run("keys", "create", "a", "--budget", "9", "--json", *state)
        bundle = write_bundle(folder / "bundle")
        server = subprocess.Popen(
            [PROGRAM, "serve", bundle, "--port", "0", *options, *state],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stderr is not None
            lines = []
            for line in server.stderr:
                lines.append(line)
                if found := re.search(r"listening on (\S+)", line):
                    break
            else:
                raise AssertionError("".join(lines))
            with Client(found[1], json.loads(made)["key"]) as client:
                image = np.zeros((8, 8, 3), np.uint8)
                assert len(client.predict(image).indices) == 2
                assert client.usage().used == 1
        finally:
            server.terminate()
            server.communicate(timeout=60)
        assert "ledger" in run("state", "check", *state)


def grpc() -> None:
    serve("--grpc-port", "0")


def marks() -> None:
    """Serve with a secret, which a server without cryptography refuses."""
    with tempfile.TemporaryDirectory() as name:
        secret, settings = Path(name) / "marks.secret", Path(name) / "stingy.toml"
        secret.touch(0o600)
        secret.write_text("ab" * 32, encoding="utf-8")
        settings.write_text(f'[marks]\nsecret_file = "{secret}"\n', encoding="utf-8")
        serve("--config", str(settings))


def onnx() -> None:
    """Export a network with its policy as one program of ONNX."""
    with tempfile.TemporaryDirectory() as name:
        bundle = write_bundle(Path(name) / "bundle")
        run("bundle", "export", bundle, "--out", Path(name) / "fused", "--fuse")
        run("bundle", "check", bundle)


def audit() -> None:
    """Load the attacks, and run a student once."""
    import torch

    from stingy_attacker_eval.attacks import attack_types
    from stingy_attacker_eval.students import cnn

    assert len(attack_types()) > 20
    assert cnn(num_classes=10, width=4)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    run("audit", "--help")


def postgres() -> None:
    """Look for a store that is not there."""
    with tempfile.TemporaryDirectory() as name:
        settings = Path(name) / "stingy.toml"
        settings.write_text('store = "postgresql://nobody@127.0.0.1:1/none"\n', encoding="utf-8")
        printed = run("keys", "list", "--config", settings, "--state", Path(name) / "s", status=2)
        assert "pip install" not in printed


def redis() -> None:
    from stingy_server.rates.rates import Rates

    asyncio.run(Rates("redis://127.0.0.1:1").close())


def oidc() -> None:
    from stingy_server.oidc import token_callers

    assert token_callers.TokenCallers.__name__ == "TokenCallers"


def otel() -> None:
    from stingy_server.observability.tracing import OpenTelemetry

    OpenTelemetry("http://127.0.0.1:1", share=0.0).close()


def torchserve() -> None:
    """Pack a bundle for TorchServe, and write its configuration."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("torchserve", "archive", write_bundle(folder / "b"), "--export-path", folder / "store")
        run("torchserve", "config", "--model-store", folder / "store", "--out", folder / "c")
    from stingy_server.torchserve.handler import Handler

    assert Handler.__name__ == "Handler"


def ray() -> None:
    from stingy_server.ray_serve.app import app

    assert app.__name__ == "app"


if __name__ == "__main__":
    for probe in sys.argv[1:]:
        globals()[probe]()
