"""Run Stingy on a Ray of its own, behind HAProxy: `python ray_stingy.py PORT STINGY_TOML`."""

import sys
from pathlib import Path

import ray
from ray import serve

from stingy_server.ray_serve.app import Arguments, app

if __name__ == "__main__":
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(app(Arguments(config=Path(sys.argv[2]))), blocking=True)
