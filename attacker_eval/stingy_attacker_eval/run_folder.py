"""The rows of one audit on disk: each is written once, at once, and survives a kill."""

import json
from dataclasses import asdict
from pathlib import Path

from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import digest_json, write_atomic, write_json
from stingy_attacker_eval.results import Row
from stingy_attacker_eval.sharding import Run

_Key = tuple[str, str, str, int, int | None]


class RunFolder:
    """OUT/config.json and OUT/rows.jsonl; the caller holds the folder's lock.

    Raises AuditError when the folder belongs to another configuration or is damaged.
    """

    def __init__(self, folder: Path, config: dict[str, object]) -> None:
        self.path = folder
        self._rows_path = folder / "rows.jsonl"
        self._check_config(config)
        self._rows = {_key(row): row for row in self._read()}

    def get(self, run: Run) -> Row | None:
        return self._rows.get(run.key)

    def row(self, run: Run) -> Row:
        """The row of a run that is finished."""
        return self._rows[run.key]

    def add(self, row: Row) -> None:
        """On disk when this returns."""
        with self._rows_path.open("a") as file:
            file.write(json.dumps(asdict(row), allow_nan=False) + "\n")
        self._rows[_key(row)] = row

    def _check_config(self, config: dict[str, object]) -> None:
        path = self.path / "config.json"
        fingerprint = digest_json(config)
        if not path.exists():
            write_json(path, {"fingerprint": fingerprint, "config": config})
            return
        try:
            found = json.loads(path.read_bytes())["fingerprint"]
        except (ValueError, KeyError, TypeError):
            found = None
        if found != fingerprint:
            raise AuditError(
                f"expected {self.path} to hold the run of this protocol, got that of another "
                "configuration: choose a new folder"
            )

    def _read(self) -> list[Row]:
        if not self._rows_path.exists():
            return []
        content = self._rows_path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:  # killed while writing: that run is simply not finished
            write_atomic(self._rows_path, whole + b"\n" if whole else b"")
        try:
            return [Row(**json.loads(line)) for line in whole.splitlines()]
        except (ValueError, TypeError):
            raise AuditError(
                f"expected rows of an audit in {self._rows_path}, got others"
            ) from None


def _key(row: Row) -> _Key:
    return row.endpoint, row.attack, row.student, row.seed, row.budget
