"""The public names, and the imports that the package needs."""

import json
import subprocess
import sys

import stingy_clients


def test_the_public_names_are_sorted_and_exist() -> None:
    assert stingy_clients.__all__ == sorted(set(stingy_clients.__all__))
    assert all(hasattr(stingy_clients, name) for name in stingy_clients.__all__)


def test_importing_the_client_needs_only_the_base_install() -> None:
    code = "import json, sys, stingy_clients.cli; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "httpx" in loaded
    unwanted = {"torch", "fastapi", "starlette", "uvicorn", "PIL", "sklearn", "matplotlib"}
    ours = {"stingy_server", "stingy_protection", "stingy_attacker_eval"}
    assert loaded & (unwanted | ours) == set()
