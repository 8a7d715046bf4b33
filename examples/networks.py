"""The networks of the examples, at CIFAR scale, with the hidden linear layers that the papers compress.

VGG-16 (K. Simonyan, A. Zisserman, arXiv:1409.1556) with batch normalisation, then Linear(512, 4096), Linear(4096, 4096)
and Linear(4096, classes); an AlexNet-style network (A. Krizhevsky, I. Sutskever, G. Hinton, 2012) whose classifier is
Linear(1024, 4096), Linear(4096, 4096), Linear(4096, classes). Both also take small one-channel images: a convolution
block pools only while its map is larger than the classifier wants it. The classifier alone takes what others make of
images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
ALEXNET_LAYERS = ((64, 3), (192, 5), (384, 3), (256, 3), (256, 3))
"""Channels and kernel of each convolution."""
ALEXNET_POOLINGS = (0, 1, 4)
"""After which of them a pooling stands."""
HIDDEN = 4096
HIDDEN_LAYERS = ("classifier.0", "classifier.3")
"""Names of the hidden linear layers of all networks: the layers that are compressed by default."""
FEATURES = 512
"""Channels of VGG-16's last convolution."""


class ConvolutionalNetwork(nn.Module):
    """Convolutions, then a classifier of two hidden linear layers, with or without biases."""

    def __init__(
        self, features: nn.Sequential, flat: int, classes: int, hidden: int, dropout: float, *, biases: bool = True
    ) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Sequential(
            nn.Linear(flat, hidden, biases),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden, biases),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes, biases),
        )
        _initialise(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, of shape (count, classes), of images of shape (count, channels, height, width)."""
        logits: torch.Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def vgg16(
    *,
    channels: int = 3,
    size: int = 32,
    classes: int = 10,
    width: float = 1.0,
    features: int = FEATURES,
    hidden: int = HIDDEN,
    dropout: float = 0.0,
    biases: bool = True,
) -> ConvolutionalNetwork:
    """Return VGG-16 with batch normalisation; its classifier takes one pixel of 512 channels.

    >>> vgg16(width=0.125).classifier[0]
    Linear(in_features=512, out_features=4096, bias=True)

    Args:
        channels, size: channels and height (= width) of the images.
        width: factor on the channels of the convolutions, but for the last.
        features: channels of the last convolution, which the classifier takes.
        hidden: size of the two hidden linear layers.
        biases: whether the linear layers have biases; the convolutions have none.
    """
    layers: list[nn.Module] = []
    before, last = channels, len(VGG16_BLOCKS) - 1
    # A small image reaches one pixel with fewer poolings: leaving out the first ones keeps the map large for longest.
    poolings = range(len(VGG16_BLOCKS) - size.bit_length() + 1, len(VGG16_BLOCKS))
    for number, block in enumerate(VGG16_BLOCKS):
        for position, wide in enumerate(block):
            is_last = number == last and position == len(block) - 1
            after = features if is_last else _narrowed(wide, width)
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
            before = after
        if number in poolings and size > 1:
            layers.append(nn.MaxPool2d(2))
            size //= 2
    flat = before * size * size
    return ConvolutionalNetwork(nn.Sequential(*layers), flat, classes, hidden, dropout, biases=biases)


def alexnet(
    *,
    channels: int = 3,
    size: int = 32,
    classes: int = 10,
    width: float = 1.0,
    hidden: int = HIDDEN,
    dropout: float = 0.0,
) -> ConvolutionalNetwork:
    """Return an AlexNet-style network; its classifier takes 2 x 2 pixels of 256 channels.

    `width` narrows all convolutions but the last, whose 256 channels the classifier takes; see `vgg16` for the others.

    >>> alexnet(channels=1, size=8, width=0.25).classifier[0]
    Linear(in_features=1024, out_features=4096, bias=True)
    """
    layers: list[nn.Module] = []
    before = channels
    # As in `vgg16`, small images leave out the first poolings.
    poolings = ALEXNET_POOLINGS[-max(1, size.bit_length() - 2) :]
    for position, (wide, kernel) in enumerate(ALEXNET_LAYERS):
        after = wide if position == len(ALEXNET_LAYERS) - 1 else _narrowed(wide, width)
        # The first convolution of a large image steps by two, as AlexNet's steps by four at 224 x 224.
        stride = 2 if position == 0 and size >= 32 else 1
        layers += [nn.Conv2d(before, after, kernel, stride, padding=kernel // 2), nn.ReLU(inplace=True)]
        before, size = after, size // stride
        if position in poolings and size > 2:
            layers.append(nn.MaxPool2d(2))
            size //= 2
    return ConvolutionalNetwork(nn.Sequential(*layers), before * size * size, classes, hidden, dropout)


def classifier(
    *,
    channels: int = FEATURES,
    size: int = 1,
    classes: int = 10,
    hidden: int = HIDDEN,
    dropout: float = 0.0,
    biases: bool = True,
    projection: bool = False,
) -> ConvolutionalNetwork:
    """Return VGG-16's classifier alone, on channels x size x size numbers: a perceptron with two hidden layers.

    >>> classifier(channels=1, size=8, hidden=64).classifier[0]
    Linear(in_features=64, out_features=64, bias=True)

    With `projection` it is linear in between: a projection to as many numbers as `hidden`, and a layer that reads them.
    """
    flat = channels * size * size
    network = ConvolutionalNetwork(nn.Sequential(), flat, classes, hidden, dropout, biases=biases)
    if projection:
        network.classifier = nn.Sequential(network.classifier[0], network.classifier[-1])
    return network


@dataclass(frozen=True)
class Architecture:
    """A network one can ask for by name, with the width that suits small images."""

    name: str
    build: Callable[..., ConvolutionalNetwork]
    small_width: float


ARCHITECTURES = {
    "alexnet": Architecture("AlexNet-style", alexnet, small_width=0.25),
    "vgg16": Architecture("VGG-16", vgg16, small_width=0.25),
}
NETWORKS: dict[str, Callable[..., ConvolutionalNetwork]] = {
    "alexnet": alexnet,
    "vgg16": vgg16,
    "classifier": classifier,
}


def parameter_count(module: nn.Module) -> int:
    """Return the number of trainable values in a module: what has to be stored besides a seed."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def freeze(network: nn.Module, names: tuple[str, ...]) -> None:
    """Turn the weights of the named layers into buffers that are neither trained nor stored.

    One seed regenerates them, so they are kept out of the state dict as well: a run that is resumed rebuilds
    them, which shows that nothing but the seed was needed.
    """
    for name in names:
        layer = network.get_submodule(name)
        weight = layer.get_parameter("weight").detach()
        del layer.weight
        layer.register_buffer("weight", weight, persistent=False)


def _narrowed(channels: int, width: float) -> int:
    """Return `channels` scaled by `width`, at least 8."""
    return max(8, round(channels * width))


def _initialise(network: nn.Module) -> None:
    """Start every layer so that rectified activations keep their scale (He et al., 2015); biases start at zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
