"""Pack a network with trained weights of ImageNet-1k, serve it, and classify photographs.

    make demo-imagenet

It prints the best classes of each photograph and how many classes are withheld.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import skimage
import sklearn.datasets
from torchvision.models import EfficientNet_B0_Weights

from stingy_clients import Client

HERE = Path(__file__).parent
STINGY = (sys.executable, "-m", "stingy_clients")
PACK = (
    *("efficientnet_lite0.py:build", "--size", "224", "--resize-shorter", "256"),
    *("--interpolation", "bicubic", "--mean", "0.498", "--std", "0.502"),  # (pixel - 127) / 128
    *("--policy", "stingy:scores=prob"),
)


def photographs() -> list[Path]:
    """Return the photographs that scikit-learn and scikit-image carry."""
    flowers = Path(sklearn.datasets.__file__).parent / "images"
    others = Path(skimage.__file__).parent / "data"
    return [
        *(flowers / "china.jpg", flowers / "flower.jpg"),
        *(others / name for name in ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")),
    ]


def pack(folder: Path) -> Path:
    """Pack the network with the labels of ImageNet-1k, as torchvision names them."""
    labels = folder / "labels.txt"
    labels.write_text("\n".join(EfficientNet_B0_Weights.DEFAULT.meta["categories"]))
    command = [*STINGY, "bundle", "pack", *PACK, "--labels", labels, "--out", folder / "bundle"]
    subprocess.run(command, cwd=HERE, check=True)  # noqa: S603
    return folder / "bundle"


@contextmanager
def served(bundle: Path, state: Path) -> Iterator[Client]:
    """Serve a bundle on a free port, and make a client with the first key."""
    command = [*STINGY, "serve", bundle, "--state", state, "--port", "0"]
    # A wide terminal, because the address and the key are read from what is printed.
    environment = os.environ | {"COLUMNS": "200"}
    with subprocess.Popen(  # noqa: S603
        command, stderr=subprocess.PIPE, text=True, env=environment, cwd=state.parent
    ) as server:
        key = address = ""
        while not (key and address):
            line = server.stderr.readline()  # type: ignore[union-attr]
            if not line:
                raise SystemExit("the server ended")
            key = key or "".join(re.findall(r"^(stingy_\S+)", line))
            address = address or "".join(re.findall(r"listening on (\S+)", line))
        try:
            with Client(address, key=key) as client:
                yield client
        finally:
            server.terminate()


def main() -> int:
    """Print a table of the photographs. Each row has the three best classes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with served(pack(folder), folder / "state") as client:
            for photograph in photographs():
                answer = client.predict(photograph.read_bytes(), model="efficientnet_lite0")
                best = ", ".join(f"{one.label} {one.score:.2f}" for one in answer.classes[:3])
                withheld = 1000 - len(answer.classes)
                print(f"{photograph.name:14} {best}; {withheld} of 1000 classes withheld")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
