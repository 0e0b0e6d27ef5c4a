"""What all tests share."""

import pytest
import torch

# The tests' networks are tiny: more threads than one only get in each other's way.
torch.set_num_threads(1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
