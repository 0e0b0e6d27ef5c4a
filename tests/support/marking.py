"""Secrets, settings and evidence for the tests of marks."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from serving import make_bundle, make_key, make_settings, random_images
from stingy_clients.documents.exhibit import Exhibit
from stingy_protection.marks import Choice, Chooser
from stingy_server import Database, Keys, Settings
from stingy_server.codec.images import Pixels
from stingy_server.detection.key_profiles import Action, KeyProfileStore, Observation
from stingy_server.marks.evidence import Answered, Evidence, EvidenceUnreadable
from stingy_server.marks.secret import MarkSecret
from stingy_server.settings import MarkSettings, Tier, WatchSettings

SECRET = MarkSecret(bytes(range(32)))
OTHER_SECRET = MarkSecret(bytes(range(1, 33)))
SHARE = 0.1  # the largest that settings allow
IMAGES = random_images(128, seed=5)


def write_secret(
    path: Path, *, value: bytes = SECRET.value.hex().encode(), mode: int = 0o600
) -> Path:
    path.write_bytes(value)
    path.chmod(mode)
    return path


def marked_settings(tmp_path: Path, *, policy: str = "stingy:n=3", **options: Any) -> Settings:
    """Make settings in which an alarm and the tier "suspect" mark a tenth of the inputs."""
    if not (tmp_path / "b").exists():
        make_bundle(tmp_path / "b", policy=policy)
    secret = write_secret(tmp_path / "marks.secret")
    return make_settings(
        tmp_path / "s",
        tmp_path / "b",
        **{
            "marks": MarkSettings(secret_file=secret, share=SHARE),
            "watch": WatchSettings(then="mark"),
            "tiers": {"suspect": Tier(mark=True)},
            **options,
        },
    )


def marked_key(state: Path, **options: Any) -> str:
    return make_key(state, tier="suspect", **options)


def alarmed_key(state: Path, *, action: Action = Action.MARK, store: str | None = None) -> str:
    """Make a key on which an alarm has taken this action."""
    with closing(Database(state, store=store)) as database:
        key, text = Keys(database).create("alarmed", budget=1_000_000)
        KeyProfileStore(database).add(key.id, Observation(), alarm=0.0, ladder=[action])
    return text


def choices(images: Pixels, *, model: str = "digits", classes: int = 10) -> list[Choice]:
    """Return the choice for each image under `marked_settings`."""
    chooser = Chooser(SECRET.value.hex().encode(), share=SHARE, runners_up=3)
    return [chooser.choose(model, code, num_classes=classes) for code in chooser.codes(images)]


def marked_rows(images: Pixels) -> list[int]:
    return [row for row, each in enumerate(choices(images)) if each.marked]


def evidence(number: int = 0, *, key: str = "k", marked: bool = True, **fields: Any) -> Evidence:
    """Make evidence of an input that is its own for each number and key."""
    answered = Answered(
        **{
            "marked": marked,
            "key": key,
            "model": "digits",
            "version": "1",
            "request": f"{number:016x}",
            "time": "2026-01-02T00:00:00.000000+00:00",
            "coarse": f"{number:064x}",
            "top1": 1,
            "runners_up": (2, 3, 0),
            "mark": 3,
            "answer": (3, 1) if marked else (1, 3),
            "scores": (-0.125, -2.5),
            **fields,
        }
    )
    return Evidence(answered, random_images(1, seed=number)[0])


def assert_rate_is_exact(
    choose: Callable[[bytes], Choice], *, share: float, digests: int = 100_000
) -> None:
    """Check for a promise of Y that inputs are marked at a rate, and places are uniform."""
    found = [choose(number.to_bytes(8)) for number in range(digests)]
    marked = [each for each in found if each.marked]
    controls = [each for each in found if each.control]
    assert not [each for each in found if each.marked and each.control]
    most = 4 * (digests * share) ** 0.5  # standard deviations of a binomial number
    for group in (marked, controls):
        assert abs(len(group) - digests * share) < most
        places = np.bincount([each.place for each in group], minlength=4)
        assert places[0] == 0
        assert (np.abs(places[1:] - len(group) / 3) < 4 * (len(group) * 2 / 9) ** 0.5).all()


def assert_swapped_rows_fail(
    seal: Callable[[bytes, Evidence], bytes], open_row: Callable[[bytes, bytes], object]
) -> None:
    """Check for a promise of Y that a row opens under its own id alone."""
    rows = [os.urandom(16) for _ in range(2)]
    sealed = [seal(row, evidence(number)) for number, row in enumerate(rows)]
    refused = 0
    for row, own, other in zip(rows, sealed, reversed(sealed), strict=True):
        open_row(row, own)
        try:
            open_row(row, other)
        except EvidenceUnreadable:
            refused += 1
    assert refused == len(rows)


def differing(one: Sequence[Any], other: Sequence[Any]) -> list[int]:
    """Return the places at which two sequences differ."""
    return [place for place, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]


def exhibit_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def inputs_of(exhibit: Exhibit) -> set[str]:
    return {item.id for item in exhibit.items}
