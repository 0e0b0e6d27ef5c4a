"""The networks of the published tables in their CIFAR form, built of torchvision's blocks.

Each network has two parts: `features`, from images to `[batch, d]`, and `classifier`, a linear
layer. White-box code finds the parts by these names. Stems keep the resolution, because 32x32
images are small.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual as MobileBlock  # type: ignore[import-untyped]
from torchvision.models.resnet import BasicBlock, Bottleneck  # type: ignore[import-untyped]
from torchvision.models.shufflenetv2 import InvertedResidual as ShuffleBlock  # type: ignore[import-untyped]

_SHUFFLE_STAGES = ((116, 4), (232, 8), (464, 4))  # channels, blocks; each stage halves the maps
_MOBILE_STAGES = (  # expansion, channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 1),
    (6, 320, 1, 1),
)
_SMALL_SHUFFLE_STAGES = ((48, 2), (96, 2))
_SMALL_MOBILE_STAGES = ((1, 8, 1, 1), (4, 16, 2, 2), (4, 32, 2, 2), (4, 64, 1, 1))


def resnet18(*, num_classes: int = 10) -> nn.Sequential:
    """Build ResNet-18: He et al. 2016, Table 1, with a 3x3 stem and no pooling after it."""
    return _resnet(BasicBlock, (2, 2, 2, 2), num_classes=num_classes)


def resnet34(*, num_classes: int = 10) -> nn.Sequential:
    """Build ResNet-34: as ResNet-18, deeper."""
    return _resnet(BasicBlock, (3, 4, 6, 3), num_classes=num_classes)


def resnet50(*, num_classes: int = 10) -> nn.Sequential:
    """Build ResNet-50: as ResNet-34, of bottlenecks."""
    return _resnet(Bottleneck, (3, 4, 6, 3), num_classes=num_classes)


def resnext29(*, num_classes: int = 10) -> nn.Sequential:
    """Build ResNeXt-29, 8x64d: Xie et al. 2017, Table 7."""
    return _resnet(Bottleneck, (3, 3, 3), num_classes=num_classes, groups=8)


def resnet11(*, num_classes: int = 10) -> nn.Sequential:
    """Build a small stand-in for ResNet-50, of its bottlenecks, for machines without a GPU."""
    return _resnet(Bottleneck, (1, 1, 1), num_classes=num_classes, width=16)


def resnext11(*, num_classes: int = 10) -> nn.Sequential:
    """Build a small stand-in for ResNeXt-29, of its grouped bottlenecks, without a GPU."""
    return _resnet(Bottleneck, (1, 1, 1), num_classes=num_classes, width=8, groups=4)


def resnet20(*, num_classes: int = 10) -> nn.Sequential:
    """Build ResNet-20: He et al. 2016, section 4.2, with projections where the shape changes."""
    return _resnet(BasicBlock, (3, 3, 3), num_classes=num_classes, width=16)


def resnet8(*, num_classes: int = 10) -> nn.Sequential:
    """Build ResNet-8, the smallest of ResNet-20's family, for machines without a GPU."""
    return _resnet(BasicBlock, (1, 1, 1), num_classes=num_classes, width=16)


def shufflenetv2(*, num_classes: int = 10) -> nn.Sequential:
    """Build ShuffleNetV2 1x: Ma et al. 2018, Table 5, with a stem of stride 1 and no pooling."""
    return _shufflenet(_SHUFFLE_STAGES, num_classes=num_classes, head=1024)


def shufflenet_small(*, num_classes: int = 10) -> nn.Sequential:
    """Build a small stand-in for ShuffleNetV2, of its blocks, for machines without a GPU."""
    return _shufflenet(_SMALL_SHUFFLE_STAGES, num_classes=num_classes, head=192)


def mobilenetv2(*, num_classes: int = 10) -> nn.Sequential:
    """Build MobileNetV2: Sandler et al. 2018, Table 2, with a stem of stride 1.

    The stem is a 1x1 convolution padded by one pixel, which makes 34x34 maps of 32x32 images.
    This quirk is kept, because the network behind the published CIFAR numbers has it.
    """
    return _mobilenet(_MOBILE_STAGES, num_classes=num_classes, stem=32, head=1280)


def mobilenet_small(*, num_classes: int = 10) -> nn.Sequential:
    """Build a small stand-in for MobileNetV2, of its blocks, for machines without a GPU."""
    return _mobilenet(_SMALL_MOBILE_STAGES, num_classes=num_classes, stem=16, head=192)


def lenet5(*, num_classes: int = 10) -> nn.Sequential:
    """Build LeNet-5 with ReLU for images of 32x32: LeCun et al. 1998, section II.B."""
    return _lenet((6, 16, 120, 84), num_classes=num_classes)


def lenet5_half(*, num_classes: int = 10) -> nn.Sequential:
    """Build LeNet-5 with half of the channels: the student of Chen et al. 2019, section 4.1."""
    return _lenet((3, 8, 60, 42), num_classes=num_classes)


def _lenet(sizes: tuple[int, int, int, int], *, num_classes: int) -> nn.Sequential:
    first, second, third, last = sizes
    features = nn.Sequential(
        *(nn.Conv2d(3, first, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(second, third, 5), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(third, last), nn.ReLU()),
    )
    parts = OrderedDict(features=features, classifier=nn.Linear(last, num_classes))
    return nn.Sequential(parts)


def _shufflenet(stages: Sequence[tuple[int, int]], *, num_classes: int, head: int) -> nn.Sequential:
    """Build a stem of 24 channels, stages of (channels, blocks), and a head of so many channels."""
    layers: list[nn.Module] = [*_convolution(3, 24, 3, nn.ReLU)]
    channels = 24
    for outputs, blocks in stages:
        layers.append(ShuffleBlock(channels, outputs, stride=2))
        layers += [ShuffleBlock(outputs, outputs, stride=1) for _ in range(blocks - 1)]
        channels = outputs
    return _network([*layers, *_convolution(channels, head, 1, nn.ReLU)], head, num_classes)


def _mobilenet(
    stages: Sequence[tuple[int, int, int, int]], *, num_classes: int, stem: int, head: int
) -> nn.Sequential:
    """Build a padded 1x1 stem, stages as in `_MOBILE_STAGES`, and a head of so many channels."""
    layers: list[nn.Module] = [*_convolution(3, stem, 1, nn.ReLU6, padding=1)]
    channels = stem
    for expansion, outputs, blocks, stride in stages:
        for step in (stride, *[1] * (blocks - 1)):
            layers.append(MobileBlock(channels, outputs, step, expansion))
            channels = outputs
    return _network([*layers, *_convolution(channels, head, 1, nn.ReLU6)], head, num_classes)


def _resnet(
    block: type[BasicBlock] | type[Bottleneck],
    stages: Sequence[int],
    *,
    num_classes: int,
    width: int = 64,
    groups: int = 1,
) -> nn.Sequential:
    """Build a 3x3 stem and stages of `width`, 2 * `width`, ... channels, each on halved maps."""
    layers: list[nn.Module] = [*_convolution(3, width, 3, nn.ReLU)]
    channels = width
    for stage, blocks in enumerate(stages):
        planes = width * 2**stage
        outputs = planes * block.expansion
        for position in range(blocks):
            stride = 2 if stage and not position else 1
            projection = (
                nn.Sequential(
                    nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )
                if stride != 1 or channels != outputs
                else None
            )
            layers.append(block(channels, planes, stride, projection, groups))
            channels = outputs
    return _network(layers, channels, num_classes)


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    activation: type[nn.Module],
    *,
    padding: int | None = None,
) -> tuple[nn.Module, ...]:
    padding = kernel // 2 if padding is None else padding
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False)
    return convolution, nn.BatchNorm2d(outputs), activation(inplace=True)


def _network(layers: Sequence[nn.Module], channels: int, num_classes: int) -> nn.Sequential:
    """Build a network of the layers, average pooling and the linear head.

    Convolutions get the initial weights of He et al. 2015.
    """
    features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    parts = OrderedDict(features=features, classifier=nn.Linear(channels, num_classes))
    return nn.Sequential(parts)
