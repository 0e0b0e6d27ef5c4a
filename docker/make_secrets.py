"""Make the secrets of compose.yaml, one file each, readable by the container that mounts it.

    python docker/make_secrets.py --model NAME [--out docker/secrets]

Passwords are random. stingy.toml contains those that the edge needs, so it is a secret itself.
The script refuses to make secrets a second time.
"""

import argparse
import secrets
from pathlib import Path

SETTINGS = """\
# The edge's settings. This file is a secret, because it contains the stores' passwords.
store = "postgresql://stingy:{postgres}@postgres/stingy"
rate_store = "redis://:{redis}@redis:6379"

[[models]]
bundle = "/bundles/{model}"
engine = "torchserve"
url = "http://torchserve:9080/predictions/{model}"
key_file = "/torchserve/key_file.json"
"""

# Redis stores only rates, so nothing in it needs to survive a restart.
REDIS = """\
requirepass {redis}
save ""
appendonly no
maxmemory 128mb
maxmemory-policy noeviction
"""


def make(out: Path, *, model: str) -> None:
    """Write all files into a folder that only its owner may enter.

    Raises:
        FileExistsError: the folder exists; the stores may have been set up with its secrets.
    """
    out.mkdir(parents=True, mode=0o700)
    passwords = {name: secrets.token_urlsafe(32) for name in ("postgres", "redis", "grafana")}
    files = {
        "stingy.toml": SETTINGS.format(model=model, **passwords),
        "redis.conf": REDIS.format(**passwords),
        "postgres_password": passwords["postgres"],
        "grafana_password": passwords["grafana"],
    }
    for name, text in files.items():
        path = out / name
        path.write_text(text, encoding="utf-8")
        # A container's user is no user of the host, so only the folder's mode protects the file.
        path.chmod(0o444)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="name of the bundle and of its archive")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "secrets")
    options = parser.parse_args()
    make(options.out, model=options.model)
