"""Commands on a state start without torch, which takes seconds to import."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from typer.testing import CliRunner
from stingy_server.cli.main import app

for line in sys.argv[2].splitlines():
    result = CliRunner().invoke(app, [*line.split(), "--state", sys.argv[1]])
    assert result.exit_code == 0, (line, result.output)
    assert "torch" not in sys.modules, line
"""
COMMANDS = """keys create alice
keys list
ledger head
ledger verify
state check
state backup {copy}"""


def test_commands_on_a_state_import_no_torch(tmp_path: Path) -> None:
    commands = COMMANDS.format(copy=tmp_path / "copy")
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "state"), commands], check=True)
