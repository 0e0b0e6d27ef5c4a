"""`python ray_program.py PORT STINGY_TOML` runs our application on its own Ray until a signal.

A line on standard input deploys the file's present content, as `serve deploy` would.
"""

import sys
from pathlib import Path

import ray
from ray import serve

from stingy_server.ray_serve.app import Arguments, app

if __name__ == "__main__":
    ray.init("local", num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    while True:
        serve.run(app(Arguments(config=Path(sys.argv[2]))))
        sys.stdout.write("deployed\n")
        sys.stdout.flush()
        sys.stdin.readline()
