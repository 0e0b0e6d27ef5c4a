"""Make the secrets of compose.yaml: one file for each, readable by who mounts it, none made twice.

    python docker/make_secrets.py --model NAME [--out docker/secrets]

Passwords are drawn anew; stingy.toml holds those the edge needs, and so is a secret itself.
"""

import argparse
import secrets
from pathlib import Path

SETTINGS = """\
# The edge's settings. It is a secret: it holds the passwords of the stores.
store = "postgresql://stingy:{postgres}@postgres/stingy"
rate_store = "redis://:{redis}@redis:6379"

[[models]]
bundle = "/bundles/{model}"
engine = "torchserve"
url = "http://torchserve:9080/predictions/{model}"
key_file = "/torchserve/key_file.json"
"""

# Rates alone are in it: nothing of it need survive a restart.
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
        FileExistsError: there are secrets already, which the stores have been made with.
    """
    out.mkdir(parents=True, mode=0o700)
    drawn = {name: secrets.token_urlsafe(32) for name in ("postgres", "redis", "grafana")}
    files = {
        "stingy.toml": SETTINGS.format(model=model, **drawn),
        "redis.conf": REDIS.format(**drawn),
        "postgres_password": drawn["postgres"],
        "grafana_password": drawn["grafana"],
    }
    for name, text in files.items():
        path = out / name
        path.write_text(text, encoding="utf-8")
        # A container's user is none of the host's: only the folder keeps others out.
        path.chmod(0o444)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="the name of the bundle, and of its archive")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "secrets")
    options = parser.parse_args()
    make(options.out, model=options.model)
