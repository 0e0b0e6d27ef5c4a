"""The rows of one audit on disk: each is written once, and bound to the answers behind it."""

import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from stingy_attacker_eval.attacks import Attack
from stingy_attacker_eval.audit.attackers import baseline_attack
from stingy_attacker_eval.audit.protocol import Protocol
from stingy_attacker_eval.audit.runs import Run
from stingy_attacker_eval.datasets.datasets import Dataset
from stingy_attacker_eval.errors import AuditError
from stingy_attacker_eval.files import read_npz, write_atomic, write_json
from stingy_attacker_eval.oracle.transfer_set import digest_images
from stingy_attacker_eval.report_schema import AttackSettings, AuditConfig, EndpointConfig
from stingy_attacker_eval.results import Row
from stingy_attacker_eval.students import student_spec
from stingy_attacker_eval.training import percent_equal

SCHEMA = "stingy.run/2"
"""The layout of a run folder. Layout 1 is that of version 0.1.0, which wrote no number."""

PREDICTIONS = "predictions"
"""The folder of the students' predictions."""

NEUTRAL_SETTINGS = {"budget", "title", "margin"}
"""The settings that decide no number."""


class RunFolder:
    """OUT/config.json, rows.jsonl, sources.json and predictions/; the caller has the folder's lock.

    sources.json identifies, by endpoint, the answers that its rows were trained on.
    predictions/DIGEST.npz has the predictions of each row that names this digest.
    """

    def __init__(self, folder: Path, config: AuditConfig) -> None:
        """Open the folder, or create its files.

        Raises AuditError if it belongs to another configuration or version, or is damaged.
        """
        self.path = folder
        self._rows_path = folder / "rows.jsonl"
        self._sources_path = folder / "sources.json"
        self._check_config(config)
        self._rows = self._read_rows()
        self._sources = self._read_sources()

    def get(self, run: Run) -> Row | None:
        return self._rows.get(run)

    def row(self, run: Run) -> Row:
        """Return the row of a run that is finished."""
        return self._rows[run]

    def check_rows(self, dataset: Dataset) -> None:
        """Check each row against the data set, and against its predictions where they were kept.

        Raises AuditError, with every fault, if a row cannot be of this data set, or has another
        accuracy than its predictions.
        """
        faults = []
        for row in self._rows.values():
            name = f"{'/'.join(_key(row).fields)} in {self._rows_path}"
            classes = row.class_agreement
            if classes is not None and len(classes) != dataset.num_classes:
                faults.append(
                    f"expected the agreement on {dataset.num_classes} classes of {name}, got that "
                    f"on {len(classes)}"
                )
            if row.predictions is None or not _predictions_path(self.path, row).exists():
                continue
            predictions = read_predictions(self.path, row)
            if len(predictions) != len(dataset.test_y):
                faults.append(f"expected {len(dataset.test_y)} predictions of {name}, got others")
                continue
            found = percent_equal(predictions, dataset.test_y)
            if not math.isclose(found, row.accuracy, abs_tol=1e-6):
                faults.append(
                    f"expected the accuracy {found:g} % of {name}, which its predictions have, got "
                    f"{row.accuracy:g} %: restore the line, or remove it to train that student anew"
                )
        if faults:
            raise AuditError(*faults)

    def save_predictions(self, predictions: NDArray[np.int64]) -> str:
        """Write a student's top-1 `[n]`, compressed, and return the digest that names the file.

        Equal predictions have one file.
        """
        folder, digest = self.path / PREDICTIONS, digest_predictions(predictions)
        path = folder / f"{digest}.npz"
        if not path.exists():
            folder.mkdir(exist_ok=True)
            content = io.BytesIO()
            np.savez_compressed(content, top1=_narrow(predictions))
            write_atomic(path, content.getvalue())
        return digest

    def add(self, row: Row) -> None:
        """Append the row; it is on disk when this returns."""
        with self._rows_path.open("a") as file:
            file.write(json.dumps(row.model_dump(mode="json"), allow_nan=False) + "\n")
        self._rows[_key(row)] = row

    def check_source(self, endpoint: str, source: Mapping[str, object]) -> None:
        """Check that the endpoint's rows, if any, were trained on answers from this source.

        source: the known part of the answers' identity.

        Raises AuditError if they were trained on others, or if no record says on which.
        """
        known = self._sources.get(endpoint)
        if known is not None:
            changed = [name for name, value in source.items() if known.get(name) != value]
            if changed:
                raise AuditError(
                    f"expected {endpoint} as when the rows in {self.path} were trained, got "
                    f"another {', '.join(changed)}: choose a new folder with --out"
                )
        elif any(row.endpoint == endpoint for row in self._rows.values()):
            raise AuditError(
                f"expected a record of the answers behind the rows of {endpoint} in {self.path}, "
                "got rows only, and answers bought now may differ: choose a new folder with --out"
            )

    def bind(self, endpoint: str, source: Mapping[str, object]) -> None:
        """Record that the endpoint's rows, from now on, are trained on these answers only."""
        self.check_source(endpoint, source)
        if endpoint not in self._sources:
            self._sources[endpoint] = dict(source)
            write_json(self._sources_path, self._sources)

    def _check_config(self, config: AuditConfig) -> None:
        path = self.path / "config.json"
        if path.exists():
            try:
                document = json.loads(path.read_bytes())
                found = AuditConfig.model_validate(document["config"])
                is_current = document["schema"] == SCHEMA
            except (ValueError, KeyError, TypeError, RecursionError):
                is_current = False
            if not is_current:
                raise AuditError(
                    f"expected a run folder of the form {SCHEMA} at {self.path}, got that of "
                    "another version: choose a new folder"
                )
            if _decisive_settings(found) != _decisive_settings(config):
                raise AuditError(
                    f"expected the run of this protocol in {self.path}, got that of another "
                    "configuration: choose a new folder"
                )
        # Keep the newest budget and title.
        write_json(path, {"schema": SCHEMA, "config": config.model_dump(mode="json")})

    def _read_rows(self) -> dict[Run, Row]:
        """Return the rows by their runs. A run may be there twice, with the same result."""
        if not self._rows_path.exists():
            return {}
        content = self._rows_path.read_bytes()
        complete, _, torn = content.rpartition(b"\n")
        if torn:  # The process was killed while writing: that run is not finished.
            write_atomic(self._rows_path, complete + b"\n" if complete else b"")
        found: dict[Run, Row] = {}
        for number, line in enumerate(complete.splitlines(), 1):
            place = f"line {number} of {self._rows_path}"
            try:
                row = Row.model_validate_json(line)
            except ValidationError:
                raise AuditError(
                    f"expected a row of an audit in {place}, got another text: restore the line, "
                    "or remove it to train that student anew"
                ) from None
            first = found.setdefault(_key(row), row)
            if _result(first) != _result(row):
                raise AuditError(
                    f"expected one result of {'/'.join(_key(row).fields)}, got a second in "
                    f"{place}: remove the rows of the folder that trained it otherwise"
                )
        return found

    def _read_sources(self) -> dict[str, dict[str, object]]:
        if not self._sources_path.exists():
            return {}
        try:
            return {
                name: dict(source)
                for name, source in json.loads(self._sources_path.read_bytes()).items()
            }
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise AuditError(
                f"expected the sources of rows in {self._sources_path}, got another document"
            ) from None


def digest_predictions(predictions: NDArray[np.int64]) -> str:
    """Return a digest of predictions, 32 hex digits."""
    return hashlib.sha256(predictions.astype("<i8").tobytes()).hexdigest()[:32]


def read_predictions(folder: Path, row: Row) -> NDArray[np.int64]:
    """Return the top-1 `[n]` that the row's student gave for the test images, in their order.

    Raises AuditError if they were not kept, or if the file is damaged.
    """
    path = _predictions_path(folder, row)
    try:
        found = read_npz(path)["top1"].astype(np.int64)
    except (OSError, ValueError, KeyError):
        raise AuditError(f"expected the predictions of a row at {path}, got none") from None
    if digest_predictions(found) != row.predictions:
        raise AuditError(f"expected the predictions that a row names at {path}, got others")
    return found


def _predictions_path(folder: Path, row: Row) -> Path:
    return folder / PREDICTIONS / f"{row.predictions}.npz"


def _narrow(predictions: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
    """Convert class numbers to the smallest unsigned type that has them."""
    return predictions.astype(np.min_scalar_type(int(predictions.max(initial=0))))


def _decisive_settings(config: AuditConfig) -> dict[str, object]:
    """Return the settings that decide a number."""
    return config.model_dump(mode="json", exclude=NEUTRAL_SETTINGS)


def _result(row: Row) -> tuple[object, ...]:
    """Return what every training of the same student gives."""
    return row.accuracy, row.agreement, row.queries, row.finite, row.predictions


def _key(row: Row) -> Run:
    return Run(row.endpoint, row.attack, row.student, row.seed, row.budget, row.attacker)


def audit_config(protocol: Protocol, dataset: Dataset) -> AuditConfig:
    """Return everything that decides an audit's numbers, except the endpoints' answers.

    It is the protocol with its grids expanded, and the digests of the data set.
    """
    return AuditConfig(
        **protocol.model_dump(exclude={"attacks", "endpoints"}),
        attacks=_settings((*map(baseline_attack, protocol.attackers), *protocol.variants)),
        endpoints=tuple(
            EndpointConfig(
                **endpoint.model_dump(exclude={"attacks"}), attacks=_settings(endpoint.variants)
            )
            for endpoint in protocol.endpoints
        ),
        student_widths={name: student_spec(name).width for name in protocol.students},
        train_digest=digest_images(dataset.train_x),
        test_digest=digest_images(dataset.test_x),
        train_labels_digest=_digest_labels(dataset.train_y),
        test_labels_digest=_digest_labels(dataset.test_y),
    )


def _settings(attacks: Iterable[Attack]) -> AttackSettings:
    return {attack.label: attack.settings() for attack in attacks}


def _digest_labels(labels: NDArray[np.int64]) -> str:
    return hashlib.sha256(labels.tobytes()).hexdigest()
