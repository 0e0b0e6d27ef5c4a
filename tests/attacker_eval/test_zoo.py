"""The zoo's networks have the published sizes and maps, and they learn."""

import sys
from importlib import import_module
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from audit_fakes import CLASSES, striped
from stingy_attacker_eval.errors import EvalError
from stingy_attacker_eval.students import STUDENTS, student_spec
from stingy_attacker_eval.training import TrainSettings, percent_equal, predict, to_device, train

ZOO = {name for name in STUDENTS if not name.startswith("cnn_")}

# Parameters at 10 and 100 classes. The ResNets: as counted by publishers of weights for CIFAR
# (github.com/kuangliu/pytorch-cifar, github.com/chenyaofo/pytorch-cifar-models).
# ShuffleNetV2 and MobileNetV2: torchvision's published 2,278,604 and 3,504,872, with another
# head, and for MobileNetV2 a stem of 1x1 instead of 3x3.
PARAMETERS = {
    "resnet18": (11_173_962, 11_220_132),
    "resnet34": (21_282_122, 21_328_292),
    "resnet50": (23_520_842, 23_705_252),
    "resnet20": (272_474, 278_324),
    "resnet8": (78_042, 83_892),
    "lenet5": (62_006, 69_656),  # by hand, with three channels
    "lenet5_half": (15_888, 19_758),
    "shufflenetv2": tuple(2_278_604 - 1025 * (1000 - k) for k in (10, 100)),
    "mobilenetv2": tuple(3_504_872 - 1281 * (1000 - k) - 32 * 3 * 8 for k in (10, 100)),
}

# The stem's maps, the last maps before they are averaged, for images of 32x32.
MAPS = {
    "resnet18": ((64, 32, 32), (512, 4, 4)),
    "resnet34": ((64, 32, 32), (512, 4, 4)),
    "resnet50": ((64, 32, 32), (2048, 4, 4)),
    "resnext29": ((64, 32, 32), (1024, 8, 8)),
    "resnet20": ((16, 32, 32), (64, 8, 8)),
    "resnet8": ((16, 32, 32), (64, 8, 8)),
    "shufflenetv2": ((24, 32, 32), (1024, 4, 4)),
    "mobilenetv2": ((32, 34, 34), (1280, 5, 5)),
    "resnet11": ((16, 32, 32), (256, 8, 8)),
    "resnext11": ((8, 32, 32), (128, 8, 8)),
    "shufflenet_small": ((24, 32, 32), (192, 8, 8)),
    "mobilenet_small": ((16, 34, 34), (192, 9, 9)),
}


def skeleton(name: str, num_classes: int) -> nn.Sequential:
    """Build the network on the meta device, with shapes and without values."""
    with torch.device("meta"):
        network = student_spec(name).build(num_classes)
    assert isinstance(network, nn.Sequential)
    return network


def count_parameters(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_as_published(name: str) -> None:
    assert (
        tuple(count_parameters(skeleton(name, classes)) for classes in (10, 100))
        == PARAMETERS[name]
    )


def test_resnext29_has_the_34_4_million_of_its_paper() -> None:
    assert round(count_parameters(skeleton("resnext29", 10)) / 1e6, 1) == 34.4


@pytest.mark.parametrize("name", sorted(ZOO - {"lenet5", "lenet5_half"}))
def test_map_sizes_are_those_of_the_cifar_form(name: str) -> None:
    network = skeleton(name, 100)
    maps = [torch.zeros(2, 3, 32, 32, device="meta")]
    for layer in network.get_submodule("features").children():
        maps.append(layer(maps[-1]))
    assert (maps[1].shape[1:], maps[-3].shape[1:]) == MAPS[name]
    assert network(maps[0]).shape == (2, 100)
    assert [part for part, _ in network.named_children()] == ["features", "classifier"]


def test_mobilenetv2_stem_is_a_padded_1x1_convolution() -> None:
    stem = skeleton("mobilenetv2", 10).get_submodule("features.0")
    assert isinstance(stem, nn.Conv2d)
    assert (stem.kernel_size, stem.stride, stem.padding) == ((1, 1), (1, 1), (1, 1))


def test_smallest_network_trains_to_a_high_accuracy() -> None:
    pixels, classes = striped(96)
    images, labels = to_device(pixels, torch.device("cpu")), torch.from_numpy(classes)

    def loss(logits: Tensor, rows: Tensor, _: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels[rows])

    torch.manual_seed(0)
    student = student_spec("resnet8").build(CLASSES)
    train(student, images, loss, settings=TrainSettings(epochs=4, batch=16, lr=0.05), seed=0)
    assert percent_equal(predict(student, images).numpy(), classes) > 90


@pytest.mark.parametrize(
    "name", ["mobilenetv2", "resnet8", "resnext11", "shufflenet_small", "lenet5_half"]
)
def test_every_weight_gets_a_gradient(name: str) -> None:
    network = student_spec(name).build(10)
    functional.cross_entropy(network(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    assert all(weights.grad is not None and weights.grad.any() for weights in network.parameters())


@pytest.mark.parametrize("name", sorted(STUDENTS))
def test_factory_is_importable_by_its_name_in_a_bundle(name: str) -> None:
    spec = student_spec(name)
    module, _, function = spec.factory.partition(":")
    with torch.device("meta"):
        network = getattr(import_module(module), function)(**spec.settings(7))
        assert count_parameters(network) == count_parameters(spec.build(7))


def test_torchvision_network_can_be_a_student() -> None:
    spec = student_spec("torchvision:shufflenet_v2_x0_5")
    assert spec.factory == "torchvision.models:shufflenet_v2_x0_5"
    spec.check(5, (32, 32))


def test_timm_network_can_be_a_student(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def create_model(model_name: str, *, num_classes: int) -> nn.Module:
        names.append(model_name)
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    timm = ModuleType("timm")
    vars(timm)["create_model"] = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    student_spec("timm:resnet10t").check(4, (8, 8))
    assert names == ["resnet10t"]


def test_timm_network_without_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EvalError, match="pip install timm"):
        student_spec("timm:resnet10t").build(3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("torchvision:nothing", 'out of torchvision.models, got "nothing"'),
        ("torchvision:list_models", "num_classes"),
        ("torchvision:ResNet", "TypeError"),
        ("torchvision:vit_b_32", "takes no images of \\(32, 32\\)"),
    ],
)
def test_unfit_network_is_refused_as_a_student(name: str, reason: str) -> None:
    with pytest.raises(EvalError, match=reason):
        student_spec(name).check(10, (32, 32))


def test_network_with_other_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = ModuleType("timm")
    vars(timm)["create_model"] = lambda *_, **__: nn.Identity()
    monkeypatch.setitem(sys.modules, "timm", timm)
    with pytest.raises(EvalError, match=r"logits \[batch, 10\]"):
        student_spec("timm:same").check(10, (8, 8))


def test_check_leaves_the_random_state_unchanged() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    student_spec("resnet8").check(10, (32, 32))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("name", ["torchvision:", "torchvision:a.b", "timm:", "resnet19"])
def test_unknown_network_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(EvalError, match=r"resnet18, resnet20, .*torchvision:NAME, timm:NAME"):
        student_spec(name)
