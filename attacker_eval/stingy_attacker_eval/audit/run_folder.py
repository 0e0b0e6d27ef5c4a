"""The rows of one audit on disk: written once, at once, and bound to what they were learnt from."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from stingy_attacker_eval.audit.runs import Run
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import digest_json, write_atomic, write_json
from stingy_attacker_eval.results import Row

_Key = tuple[str, str, str, int, int | None]

_DECIDES_NOTHING = ("budget", "title")
_LATER = ("train_labels_digest", "test_labels_digest")
"""What the configuration in a folder of an earlier version may lack."""


class RunFolder:
    """OUT/config.json, OUT/rows.jsonl and OUT/learnt_from.json; the caller holds the folder's lock.

    learnt_from.json says by endpoint which answers its rows are learnt from; folders of earlier
    versions are without.
    Raises AuditError when the folder belongs to another configuration or is damaged.
    """

    def __init__(self, folder: Path, config: dict[str, object]) -> None:
        self.path = folder
        self._rows_path = folder / "rows.jsonl"
        self._sources_path = folder / "learnt_from.json"
        self._check_config(config)
        self._rows = {_key(row): row for row in self._read()}
        self._sources = self._read_sources()

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

    def check_source(self, endpoint: str, source: Mapping[str, object], *, bought: bool) -> None:
        """Raises AuditError when rows of the endpoint are learnt from others than this, or may be.

        source: as much as is known of it. bought: whether its answers are all there already; of
        rows without a record that alone tells that they were learnt from these.
        """
        known = self._sources.get(endpoint)
        if known is not None:
            changed = [name for name, value in source.items() if known.get(name) != value]
            if changed:
                raise AuditError(
                    f"expected {endpoint} to be what the rows in {self.path} are learnt from, got "
                    f"another {', '.join(changed)}: choose a new folder with --out"
                )
        elif not bought and any(row.endpoint == endpoint for row in self._rows.values()):
            raise AuditError(
                f"expected the answers that the rows of {endpoint} in {self.path} are learnt from, "
                "got rows alone, which answers bought now may not belong to: choose a new folder "
                "with --out"
            )

    def bind(self, endpoint: str, source: Mapping[str, object]) -> None:
        """From now on the endpoint's rows are of these answers, all bought, and of no others."""
        self.check_source(endpoint, source, bought=True)
        if endpoint not in self._sources:
            self._sources[endpoint] = dict(source)
            write_json(self._sources_path, self._sources)

    def _check_config(self, config: dict[str, object]) -> None:
        path = self.path / "config.json"
        if path.exists():
            try:
                found = dict(json.loads(path.read_bytes())["config"])
            except (ValueError, KeyError, TypeError):
                found = {}
            known = {k: v for k, v in config.items() if k in found or k not in _LATER}
            if _deciding(found) != _deciding(known):
                raise AuditError(
                    f"expected {self.path} to hold the run of this protocol, got that of another "
                    "configuration: choose a new folder"
                )
        # The newest budget and title, and what a folder of an earlier version lacks.
        write_json(path, {"config": config})

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

    def _read_sources(self) -> dict[str, dict[str, object]]:
        if not self._sources_path.exists():
            return {}
        try:
            return {
                name: dict(source)
                for name, source in json.loads(self._sources_path.read_bytes()).items()
            }
        except (ValueError, TypeError, AttributeError):
            raise AuditError(
                f"expected what rows are learnt from in {self._sources_path}, got another document"
            ) from None


def _deciding(config: Mapping[str, object]) -> str:
    """The digest of all in a configuration that decides a number."""
    return digest_json({k: v for k, v in config.items() if k not in _DECIDES_NOTHING})


def _key(row: Row) -> _Key:
    return row.endpoint, row.attack, row.student, row.seed, row.budget
