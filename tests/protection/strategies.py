"""Logits for property tests: finite, with many ties, over the whole float32 range."""

import torch
from hypothesis import strategies as st
from torch import Tensor

# Small whole numbers make ties; the wide floats reach the ends of float32.
_VALUES = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-30, 30, width=32),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)


@st.composite
def finite_logits(draw: st.DrawFn, max_rows: int = 4, max_classes: int = 12) -> Tensor:
    """float32 `[batch, classes]`."""
    rows = draw(st.integers(1, max_rows))
    classes = draw(st.integers(2, max_classes))
    row = st.lists(_VALUES, min_size=classes, max_size=classes)
    return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)), dtype=torch.float32)


def normal_logits(rows: int, classes: int, *, seed: int = 0, scale: float = 3.0) -> Tensor:
    """Seeded normal logits `[rows, classes]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, classes, generator=generator) * scale
