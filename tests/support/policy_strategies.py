"""Logits and policies for property tests. Logits have many ties and span float32's range."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from stingy_protection import NoisyPolicy, Policy, build_policy, class_prototypes

# Small whole numbers make ties. The wide floats reach the ends of float32.
_VALUES = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-30, 30, width=32),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)


@st.composite
def finite_logits(draw: st.DrawFn, max_rows: int = 4, max_classes: int = 12) -> Tensor:
    """Draw finite float32 logits `[batch, classes]`."""
    rows = draw(st.integers(1, max_rows))
    classes = draw(st.integers(2, max_classes))
    row = st.lists(_VALUES, min_size=classes, max_size=classes)
    return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)), dtype=torch.float32)


def normal_logits(rows: int, classes: int, *, seed: int = 0, scale: float = 3.0) -> Tensor:
    """Draw normal logits `[rows, classes]` from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, classes, generator=generator) * scale


def build_shipped(name: str, num_classes: int) -> Policy:
    """Build a shipped policy with its default options, and with lists if it needs them."""
    options = {}
    if name == "class_prototype":
        options["lists"] = class_prototypes(normal_logits(50, num_classes), n=num_classes)
    return build_policy(name, num_classes=num_classes, **options)


def make_noise(policy: Policy, logits: Tensor) -> Tensor | None:
    """Make noise that depends on the row, if the policy needs any."""
    return torch.sin(1e3 * logits.clamp(-1e3, 1e3)) if isinstance(policy, NoisyPolicy) else None
