"""Sorting: by falling value, then by rising index, in every code path."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stingy_protection import best_first
from stingy_protection.ordering import Floats32, select_largest, sort_entries

SHAPES = [(1, 7), (3, 100), (1, 1000), (40, 700), (2, 20_000)]  # few, one block, many blocks


def by_value_then_index(row: Floats32) -> list[int]:
    return sorted(range(len(row)), key=lambda index: (-row[index], index))


@settings(max_examples=60)
@given(
    shape=st.sampled_from(SHAPES),
    share=st.sampled_from([0.0, 0.01, 0.1, 1.0]),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1e37]),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_P1_the_largest_are_found_exactly_in_any_batch(
    shape: tuple[int, int], share: float, spread: float, whole: bool, seed: int
) -> None:
    rows = (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)
    if whole:
        rows = rows.round()  # ties, and zeros of both signs
    n = max(1, int(share * shape[1]))
    values, indices = select_largest(rows, n)
    for row, largest, found in zip(rows, values, indices.tolist(), strict=True):
        assert found == by_value_then_index(row)[:n]
        assert (largest == row[found]).all()


@pytest.mark.parametrize("n", [1, 3, 20, 1000])
@pytest.mark.parametrize("decimals", [0, 6])
def test_best_first_by_numpy_and_by_torch_agree(n: int, decimals: int) -> None:
    logits = torch.randn(40, 1000, generator=torch.Generator().manual_seed(0)).round(
        decimals=decimals
    )
    by_numpy, by_torch = best_first(logits, n), best_first(logits.double(), n)
    assert torch.equal(by_numpy[0].double(), by_torch[0])
    assert torch.equal(by_numpy[1], by_torch[1])


def test_sort_entries_leaves_the_first_entries_in_place() -> None:
    values = np.array([[1.0, -0.0, 2.0, 0.0, -5.0, 2.0]], np.float32)
    moved, indices = sort_entries(values, np.array([[9, 5, 8, 4, 3, 7]]), after=1)
    assert indices.tolist() == [[9, 7, 8, 4, 5, 3]]
    assert moved.tolist() == [[1.0, 2.0, 2.0, 0.0, 0.0, -5.0]]
