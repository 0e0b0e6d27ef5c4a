"""How long an answer or a refusal takes: bounds, for constant time is not promised."""

import statistics
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stingy_protection import build_policy, sanitize
from stingy_server import Database, Keys
from timing import gap, interleaved, tell_apart

N, K = 5, 1000
NAMES = ("stingy", "ranked_labels")


def twin(variant: int) -> Tensor:
    """[1, K] logits: the N largest are those of all variants, the withheld ones are its own."""
    places = torch.randperm(K, generator=torch.Generator().manual_seed(0))
    withheld = torch.rand(K - N, generator=torch.Generator().manual_seed(variant)) * 3
    return torch.cat([torch.arange(9.0, 9.0 - N, -1), withheld])[places][None]


def ordered(*, descending: bool) -> Tensor:
    """[1, K] logits: the same numbers, in the easiest or the hardest order for a partial sort."""
    return twin(1).sort(descending=descending).values


@pytest.mark.parametrize("name", NAMES)
def test_L8_twins_cannot_be_told_apart_by_the_gates_time(name: str) -> None:
    policy = build_policy(name, num_classes=K, n=N)
    rows = (twin(1), twin(2), twin(1))
    first, second, again = interleaved(
        *(partial(sanitize, policy, row) for row in rows), rounds=2000
    )
    assert not tell_apart(first, second, share=0.01)
    assert not tell_apart(first, again, share=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_L8_the_order_of_the_logits_shows_in_less_than_one_sort_of_them(name: str) -> None:
    policy = build_policy(name, num_classes=K, n=N)
    easy, hard, row = ordered(descending=True), ordered(descending=False), twin(1)
    fast, slow, one_sort = interleaved(
        partial(sanitize, policy, easy),
        partial(sanitize, policy, hard),
        partial(row.sort, descending=True),
        rounds=2000,
    )
    assert abs(gap(fast, slow)[0]) < statistics.median(one_sort)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "state")) as database:
        yield database


def altered(text: str, place: int) -> str:
    """The key with one character changed."""
    place %= len(text)
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


def test_A5_how_much_of_a_key_is_right_does_not_show_in_time(database: Database) -> None:
    keys = Keys(database)
    _, text = keys.create("k", budget=1)
    first = text.index("_", len("stingy_")) + 1  # the secret begins after the key's id
    wrong = (altered(text, first), altered(text, -1))
    assert [keys.authenticate(given) for given in wrong] == [None, None]
    early, late = interleaved(*(partial(keys.authenticate, given) for given in wrong), rounds=5000)
    assert not tell_apart(early, late, share=0.01)
