"""Run a model server and the edge in front of it: `python behind.py STINGY_TOML COMMAND...`.

The edge refuses to start until the model server answers it, so it is started until it succeeds.
"""

import subprocess
import sys
import time

if __name__ == "__main__":
    config, *command = sys.argv[1:]
    upstream = subprocess.Popen(command)  # noqa: S603
    edge = [sys.executable, "-m", "stingy_clients", "serve", "--config", config]
    while upstream.poll() is None and subprocess.run(edge, check=False).returncode:  # noqa: S603
        time.sleep(1)
    upstream.terminate()
    upstream.wait()
