"""Start TorchServe in its container, with predictions on the network and all else on loopback.

The configuration is that of `stingy torchserve config` for the archives in /models. Only the
address for predictions differs.
"""

import os
import subprocess
from pathlib import Path

PROGRAMS = Path("/opt/stingy/bin")
CONFIG = Path("/tmp/config.properties")  # noqa: S108  the container's own temporary folder
INFERENCE = "inference_address=http://{}:9080\n"


def main() -> None:
    subprocess.run(  # noqa: S603  all arguments are set here
        (PROGRAMS / "stingy", "torchserve", "config", "--model-store", "/models", "--out", CONFIG),
        check=True,
    )
    config = CONFIG.read_text(encoding="utf-8")
    loopback = INFERENCE.format("127.0.0.1")
    if config.count(loopback) != 1:
        raise SystemExit(
            f"expected one line {loopback.strip()} in {CONFIG}, got {config.count(loopback)}"
        )
    CONFIG.write_text(config.replace(loopback, INFERENCE.format("0.0.0.0")), encoding="utf-8")  # noqa: S104
    command = (PROGRAMS / "torchserve", "--foreground", "--ncs", "--ts-config", CONFIG)
    os.execv(command[0], command)  # noqa: S606  all arguments are set here


if __name__ == "__main__":
    main()
