"""`python behind.py STINGY_TOML COMMAND...`: the edge of the settings before this model server.

The edge does not start before the model server has answered it, so it is started until it does.
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
