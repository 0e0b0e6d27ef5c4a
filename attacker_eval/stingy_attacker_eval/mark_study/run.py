"""The run of a study. Every student is a row that a later call keeps."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from stingy_attacker_eval.attacks.networks import compute_logits
from stingy_attacker_eval.environment import default_device, describe_environment
from stingy_attacker_eval.errors import StudyError
from stingy_attacker_eval.files import digest_json, lock_folder, write_json
from stingy_attacker_eval.mark_study.analysis import summarise
from stingy_attacker_eval.mark_study.innocents import accuse
from stingy_attacker_eval.mark_study.lab import Lab, Parts, load_parts, preferred_places
from stingy_attacker_eval.mark_study.orders import Float64
from stingy_attacker_eval.mark_study.page import write_page
from stingy_attacker_eval.mark_study.rows import (
    AnyRow,
    EndpointRow,
    InnocentRow,
    OrderRow,
    ThiefRow,
    drop_cut_line,
    read_rows,
)
from stingy_attacker_eval.mark_study.settings import Study
from stingy_attacker_eval.training import percent_equal

ROWS = "rows.jsonl"
STUDY = "study.json"
RESULTS = "results.json"


@dataclass(frozen=True)
class Job:
    """One piece of work of a seed: its endpoint, a thief, or an innocent.

    name: as in `--only`, without the seed.
    share: of the marks; 0 for a secret order of lists in place of marks.
    """

    seed: int
    name: str
    thief: str | None = None
    share: float = 0.0
    innocent: int | None = None


def run_study(study: Study, *, out: Path, only: Sequence[str], console: Console) -> Path:
    """Train the students that have no row yet, write `results.json`, and return the page's path.

    Each seed has a folder, in which one process works at a time. The innocents of the first seed
    are tried against the other secrets when the last of them is trained.

    Raises StudyError if the folder has another study.
    """
    out.mkdir(parents=True, exist_ok=True)
    document = study.model_dump(mode="json")
    path = out / STUDY
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != document:
        raise StudyError(f"expected the study of {path}, got another: choose a new folder")
    write_json(path, document)
    parts: Parts | None = None
    for seed in study.seeds:
        jobs = [job for job in _plan(study, seed) if _wanted(job, only)]
        if not jobs:
            continue
        folder = out / f"seed{seed}"
        with lock_folder(folder):
            parts = parts or load_parts(study)
            _run_seed(study, parts, jobs, seed=seed, folder=folder, console=console)
    rows = [row for seed in study.seeds for row in read_rows(out / f"seed{seed}" / ROWS)]
    environment = describe_environment(default_device())
    results = summarise(study, rows, environment=environment, study_digest=digest_json(document))
    write_json(out / RESULTS, results.model_dump(mode="json"))
    return write_page(out, study, results)


def _plan(study: Study, seed: int) -> Iterator[Job]:
    yield Job(seed, "endpoint")
    for name in study.thieves:
        on_labels = name.startswith("label_only")
        for share in study.shares if on_labels else (study.share,):
            yield Job(seed, f"{name}@{share:g}", thief=name, share=share)
    if seed == study.seeds[0]:
        for number, data in enumerate(study.innocents):
            yield Job(seed, f"innocent-{number}-{data}", innocent=number)
    for name in study.order_thieves:
        yield Job(seed, f"order-{name}", thief=name)


def _wanted(job: Job, only: Sequence[str]) -> bool:
    name = f"{job.seed}/{job.name}"
    return not only or any(fnmatchcase(name, pattern) for pattern in only)


def _run_seed(
    study: Study, parts: Parts, jobs: Sequence[Job], *, seed: int, folder: Path, console: Console
) -> None:
    rows = folder / ROWS
    drop_cut_line(rows)
    done = {_name_of(row) for row in read_rows(rows)}
    lab: Lab | None = None
    for number, job in enumerate(jobs, 1):
        kept = folder / f"{job.name}.npz"
        if job.name in done or (job.innocent is not None and kept.exists()):
            continue
        lab = lab or Lab(study, parts, seed=seed, folder=folder)
        started = time.perf_counter()
        if job.thief is not None and job.share:
            _append(rows, lab.rob(job.thief, job.share))
        elif job.thief is not None:
            references = _read_references(study, folder.parent)
            if not references:
                console.print(f"{job.name}: left out until all innocents are trained", markup=False)
                continue
            _append(rows, lab.rob_lists(job.thief, np.mean(references, axis=0)))
        elif job.innocent is not None:
            _train_innocent(lab, job.innocent, study.innocents[job.innocent], kept)
        else:
            _append(rows, lab.measure_endpoint())
        seconds = time.perf_counter() - started
        console.print(f"{number}/{len(jobs)} seed {seed} {job.name}: {seconds:.0f} s", markup=False)
    names = [f"innocent-{number}-{data}" for number, data in enumerate(study.innocents)]
    files = [folder / f"{name}.npz" for name in names]
    if names and names[0] not in done and seed == study.seeds[0] and all(map(Path.exists, files)):
        lab = lab or Lab(study, parts, seed=seed, folder=folder)
        judged = _judge_innocents(lab, names, _read_references(study, folder.parent))
        _append(rows, *_accuse(study, lab, names, files), *judged)


def _train_innocent(lab: Lab, number: int, data: str, path: Path) -> None:
    started = time.perf_counter()
    student, finite = lab.train_innocent(number, data)
    logits = compute_logits(student, lab.parts.owned[0])
    accuracy, agreement = lab.measure(student)
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(
        temporary,
        classes=logits.argmax(dim=1).numpy(),
        preferred=preferred_places(logits, lab.owned_runners_up()),
        log_probabilities=lab.log_probabilities(student).astype(np.float16),
        numbers=np.array([accuracy, agreement, time.perf_counter() - started, finite]),
    )
    temporary.replace(path)


def _accuse(
    study: Study, lab: Lab, names: Sequence[str], files: Sequence[Path]
) -> Iterator[InnocentRow]:
    kept: list[dict[str, NDArray[np.generic]]] = []
    for path in files:
        with np.load(path, allow_pickle=False) as file:
            kept.append({name: file[name] for name in file.files})
    accusations = accuse(
        [each["classes"].astype(np.int64) for each in kept],
        [each["preferred"].astype(np.int64) for each in kept],
        lab.owned_pixels(),
        lab.owned_runners_up(),
        shares=study.shares,
        secrets=study.secrets,
        num_classes=len(lab.parts.labels),
    )
    for name, data, each, found in zip(names, study.innocents, kept, accusations, strict=True):
        accuracy, agreement, seconds, finite = each["numbers"].tolist()
        yield InnocentRow.model_validate(
            {
                "seed": lab.seed,
                "student": name,
                "data": data,
                "accuracy": accuracy,
                "agreement": agreement,
                "accusations": found,
                "seconds": round(seconds, 1),
                "finite": bool(finite),
            }
        )


def _judge_innocents(
    lab: Lab, names: Sequence[str], references: Sequence[Float64]
) -> Iterator[OrderRow]:
    """Judge each innocent by the seed's secret order, with the others as references."""
    for number, name in enumerate(names):
        others = [each for place, each in enumerate(references) if place != number]
        yield lab.judge_order(
            name,
            references[number],
            np.mean(others, axis=0),
            data="innocent",
            accuracy=percent_equal(references[number].argmax(axis=1), lab.parts.test[1].numpy()),
            seconds=0.0,
            finite=True,
        )


def _read_references(study: Study, out: Path) -> list[Float64]:
    """Read the innocents' log-probabilities of the test images; none until all are trained."""
    folder = out / f"seed{study.seeds[0]}"
    found: list[Float64] = []
    for number, data in enumerate(study.innocents):
        path = folder / f"innocent-{number}-{data}.npz"
        if not path.exists():
            return []
        with np.load(path, allow_pickle=False) as file:
            found.append(file["log_probabilities"].astype(np.float64))
    return found


def _name_of(row: AnyRow) -> str:
    if isinstance(row, EndpointRow):
        return "endpoint"
    if isinstance(row, OrderRow):
        return f"order-{row.student}"
    return f"{row.student}@{row.share:g}" if isinstance(row, ThiefRow) else row.student


def _append(path: Path, *rows: AnyRow) -> None:
    """Append rows in one write, so that a kill leaves no part of them but a line cut off."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(row.model_dump_json() + "\n" for row in rows))
