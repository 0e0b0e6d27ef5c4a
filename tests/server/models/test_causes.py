"""The cause of NaN and infinity is named: the weights, a variance, or the first layer."""

import pytest
import torch
from torch import Tensor, nn

from stingy_server.models.causes import find_cause

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Overflowing(nn.Module):
    """A layer that leaves the range of float32."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.exp() * 1e39


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    damaged = network()
    damaged.get_parameter("3.bias").data[1] = value
    expected = "the weights have some in 3.bias: the training diverged, or the file is damaged"
    assert find_cause(damaged, IMAGES) == expected


def test_names_of_many_weights_are_counted() -> None:
    damaged = network()
    for parameter in damaged.parameters():
        parameter.data.fill_(float("nan"))
    assert "in 0.weight, 0.bias, 1.weight and 3 more: the training" in find_cause(damaged, IMAGES)


def test_variance_below_zero_is_named() -> None:
    damaged = network()
    damaged.get_buffer("1.running_var").fill_(-1.0)
    assert "a variance is below 0 in 1.running_var" in find_cause(damaged, IMAGES)


def test_first_layer_that_overflows_is_named() -> None:
    inner = nn.Sequential(nn.ReLU(), Overflowing(), nn.ReLU())
    damaged = nn.Sequential(network(), inner)
    cause = find_cause(damaged, IMAGES)
    assert cause.startswith("they begin in the layer 1.1; look at the weights, and at mean and std")
    assert not inner[1]._forward_hooks


def test_network_that_raises_has_the_general_advice() -> None:
    assert find_cause(network(), IMAGES[:, :1]).startswith("look at the weights")
