"""Images with the answers bought for them, on disk; an answer paid for is never lost or mixed."""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from stingy_attacker_eval.datasets.datasets import Images
from stingy_attacker_eval.errors import AnswersError, EvalError, TransferError
from stingy_attacker_eval.files import defer_interrupt, lock_folder, write_atomic, write_json
from stingy_attacker_eval.oracle.oracle import Answers, Oracle, join_answers
from stingy_clients import ClientError

_CHUNK = 64

Progress = Callable[[int], None]
"""Told how many more images are on disk."""


@dataclass(frozen=True)
class TransferSet:
    """Answers for images known by their digest, with where they came from.

    queries: images really asked. charged: what the endpoint itself counted for them, added up
    request by request, so that another key may go on where one ran out.
    """

    digest: str
    answers: Answers
    fingerprint: str
    model: str
    version: str
    queries: int
    charged: int


@dataclass(frozen=True)
class _Meta:
    """meta.json: whatever differs in here (but for the counts) must not be mixed.

    charged_before: the key's count when charged_so_far was added up. charged: once all is bought.
    """

    digest: str
    images: int
    chunk: int
    model: str
    version: str
    policy: str
    fingerprint: str
    labels: list[str]
    support: int
    scores: str
    charged_before: int
    charged: int | None = None
    charged_so_far: int = 0
    schema: str = "stingy.transfer/1"


def digest_images(images: Images) -> str:
    """SHA-256, hex, over shape and pixels."""
    content = np.ascontiguousarray(images)
    return hashlib.sha256(str(content.shape).encode() + content.tobytes()).hexdigest()


def buy(
    oracle: Oracle,
    images: Images,
    *,
    budget: int,
    folder: Path,
    progress: Progress | None = None,
) -> TransferSet:
    """Buy an answer for every image `[n, H, W, 3]`, in chunks that stay on disk.

    A second call on the same folder buys only what is missing. Raises TransferError before a
    query is spent when the budget (images) is below what is missing, or when the folder holds
    answers to other images or of another model, version or policy; and, keeping what was
    bought, when the endpoint fails. AuditError when another process holds the folder.
    """
    with lock_folder(folder):
        meta = _open(folder, images, oracle)
        starts = range(0, meta.images, meta.chunk)
        missing = [start for start in starts if not _chunk_path(folder, start, meta).exists()]
        wanted = sum(len(images[start : start + meta.chunk]) for start in missing)
        if wanted > budget:
            raise TransferError(
                f"expected a budget of at least {wanted} images, got {budget}: nothing was asked"
            )
        write_json(folder / "meta.json", asdict(meta))
        report = progress or (lambda count: None)
        report(meta.images - wanted)
        meta = _buy(oracle, images, missing, folder, meta, report)
        if meta.charged is None:
            meta = replace(meta, charged=meta.charged_so_far)
            write_json(folder / "meta.json", asdict(meta))
        answers = join_answers([_load(folder, images, start, meta) for start in starts])
    return TransferSet(
        digest=meta.digest,
        answers=answers,
        fingerprint=meta.fingerprint,
        model=meta.model,
        version=meta.version,
        queries=len(answers),
        charged=meta.charged or 0,
    )


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a purchase that was finished; what it holds is not checked."""
    path = folder / "meta.json"
    try:
        return path.exists() and json.loads(path.read_bytes())["charged"] is not None
    except (ValueError, KeyError, TypeError):
        return False


def _open(folder: Path, images: Images, oracle: Oracle) -> _Meta:
    """The folder's meta, checked against what is asked for now, or a new one."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise TransferError(
            f"expected images uint8 [n, H, W, 3], got {images.dtype} {list(images.shape)}"
        )
    info = oracle.describe()
    wanted = _Meta(
        digest=digest_images(images),
        images=len(images),
        chunk=min(_CHUNK, info.max_batch),
        model=info.name,
        version=info.version,
        policy=info.policy,
        fingerprint=info.fingerprint,
        labels=list(info.labels),
        support=info.support,
        scores=info.scores,
        charged_before=0,
    )
    path = folder / "meta.json"
    if not path.exists():
        return replace(wanted, charged_before=oracle.charged())
    try:
        found = _Meta(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise TransferError(
            f"expected a transfer set's meta.json in {folder}, got another"
        ) from None
    # The chunk size belongs to the files that are there, whatever the server allows today.
    wanted = replace(
        wanted,
        chunk=found.chunk,
        charged_before=found.charged_before,
        charged=found.charged,
        charged_so_far=found.charged_so_far,
    )
    changed = [f.name for f in fields(_Meta) if getattr(wanted, f.name) != getattr(found, f.name)]
    if changed:
        raise TransferError(
            f"expected the transfer set in {folder} to be of the same endpoint and images, got "
            f"another {', '.join(changed)}: answers are never mixed, choose a new folder"
        )
    return found if found.charged is not None else _counted(found, oracle)


def _counted(meta: _Meta, oracle: Oracle) -> _Meta:
    """With what the key was charged since; counted less than before, it is another key."""
    now = oracle.charged()
    since = max(0, now - meta.charged_before)
    return replace(meta, charged_before=now, charged_so_far=meta.charged_so_far + since)


def _buy(
    oracle: Oracle,
    images: Images,
    missing: list[int],
    folder: Path,
    meta: _Meta,
    report: Progress,
) -> _Meta:
    """Returns the meta with what was charged; whatever stops it, the folder's has it too."""
    # A request may carry fewer images than the chunks on disk were cut to.
    if missing and oracle.describe().max_batch < meta.chunk:
        raise TransferError(
            f"expected an endpoint that takes {meta.chunk} images a request, as when the folder "
            f"was begun, got {oracle.describe().max_batch}: choose a new folder"
        )
    for start in missing:
        part = images[start : start + meta.chunk]
        try:
            with defer_interrupt():
                answers = oracle.query(part)
                _check(answers, len(part), meta)
                _save(_chunk_path(folder, start, meta), answers)
                meta = _counted(meta, oracle)
                write_json(folder / "meta.json", asdict(meta))
        except (ClientError, EvalError) as error:
            raise TransferError(
                f"{_progress_text(folder, meta)}; the endpoint failed: {error}"
            ) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_progress_text(folder, meta)) from None
        report(len(part))
    return meta


def _progress_text(folder: Path, meta: _Meta) -> str:
    count = sum(
        min(meta.chunk, meta.images - start)
        for start in range(0, meta.images, meta.chunk)
        if _chunk_path(folder, start, meta).exists()
    )
    return f"{count} of {meta.images} images were bought and are kept, run again for the rest"


def _chunk_path(folder: Path, start: int, meta: _Meta) -> Path:
    return folder / f"chunk-{start // meta.chunk:05d}.npz"


def _check(answers: Answers, count: int, meta: _Meta) -> None:
    expected = (count, meta.support, len(meta.labels), meta.scores)
    got = (len(answers), answers.support, answers.num_classes, answers.form)
    if expected != got:
        raise AnswersError(
            f"expected (images, N, classes, score form) = {expected} as described, got {got}"
        )


def _save(path: Path, answers: Answers) -> None:
    content = io.BytesIO()
    if answers.scores is None:
        np.savez(content, indices=answers.indices)
    else:
        np.savez(content, indices=answers.indices, scores=answers.scores)
    write_atomic(path, content.getvalue())


def _load(folder: Path, images: Images, start: int, meta: _Meta) -> Answers:
    path = _chunk_path(folder, start, meta)
    try:
        with np.load(path, allow_pickle=False) as file:
            scores = file["scores"] if "scores" in file.files else None
            answers = Answers(file["indices"], scores, len(meta.labels), meta.scores)
        _check(answers, len(images[start : start + meta.chunk]), meta)
    except (OSError, ValueError, KeyError, BadZipFile, AnswersError):
        raise TransferError(
            f"expected the answers that were saved in {path}, got a damaged file: delete it to "
            "buy them again"
        ) from None
    return answers
