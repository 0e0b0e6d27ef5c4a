"""Start TorchServe in its container: predictions on the container's network, all else on loopback.

The configuration is that of `stingy torchserve config` for the archives in /models, but for one
address.
"""

import os
import subprocess
from pathlib import Path

PROGRAMS = Path("/opt/stingy/bin")
CONFIG = Path("/tmp/config.properties")  # noqa: S108  the container's own, and its only free place
INFERENCE = "inference_address=http://{}:9080\n"


def main() -> None:
    subprocess.run(  # noqa: S603  every word of it is here
        (PROGRAMS / "stingy", "torchserve", "config", "--model-store", "/models", "--out", CONFIG),
        check=True,
    )
    config = CONFIG.read_text(encoding="utf-8")
    loopback = INFERENCE.format("127.0.0.1")
    if config.count(loopback) != 1:
        raise SystemExit(f"expected one line {loopback.strip()} in {CONFIG}, got another")
    CONFIG.write_text(config.replace(loopback, INFERENCE.format("0.0.0.0")), encoding="utf-8")  # noqa: S104
    command = (PROGRAMS / "torchserve", "--foreground", "--ncs", "--ts-config", CONFIG)
    os.execv(command[0], command)  # noqa: S606  likewise


if __name__ == "__main__":
    main()
