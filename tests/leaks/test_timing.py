"""Bounds on the time of an answer or a refusal; constant time is not promised."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stingy_protection import build_policy, sanitize
from stingy_server import Database, Keys
from timing import differ_by, interleaved, shows_in_a_sort

K = 1000


def withholding(variant: int, *, n: int) -> Tensor:
    """Return logits [1, K]: all variants share the n largest, and each has other withheld ones."""
    places = torch.randperm(K, generator=torch.Generator().manual_seed(0))
    withheld = torch.rand(K - n, generator=torch.Generator().manual_seed(variant)) * 3
    return torch.cat([torch.arange(4.0 + n, 4.0, -1), withheld])[places][None]


@pytest.mark.parametrize("name", ["stingy", "ranked_labels"])
@pytest.mark.parametrize("n", [5, 100])
def test_L8_withheld_logits_move_gate_time_less_than_a_sort(name: str, n: int) -> None:
    policy = build_policy(name, num_classes=K, n=n)
    row, *others = [withholding(variant, n=n) for variant in range(3)]
    easiest, hardest = (row.sort(descending=falling).values for falling in (True, False))
    assert not shows_in_a_sort(partial(sanitize, policy), row, *others, easiest, hardest)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "state")) as database:
        yield database


def altered(text: str, place: int) -> str:
    """Return the key with one character changed."""
    place %= len(text)
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


def test_A5_how_much_of_a_key_is_right_does_not_show_in_time(database: Database) -> None:
    keys = Keys(database)
    _, text = keys.create("k", budget=1)
    first = text.index("_", len("stingy_")) + 1  # the secret begins after the key's id
    wrong = (altered(text, first), altered(text, -1))
    assert [keys.authenticate(given) for given in wrong] == [None, None]
    early, late = interleaved(*(partial(keys.authenticate, given) for given in wrong), rounds=5000)
    # The text moves it by half a percent whatever it is; a comparison that ends early, by a fifth.
    assert not differ_by(early, late, share=0.05)
