"""What VGG-16's convolutions, trained on ImageNet, make of images: fixed inputs for its classifier.

The weights are read from a file that the user has: torchvision's `vgg16-397923af.pth`, or an ONNX file in which the
thirteen convolutions of Keras' VGG-16 stand. Files hold data and no code is run.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from data import Dataset
from networks import VGG16_BLOCKS

SIZE = 64
"""To how many pixels images are enlarged: 32 would leave a single place after five poolings."""
BATCH = 100
TORCHVISION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's images in RGB, from 0 to 1, as torchvision's weights want them."""
KERAS = (103.939, 116.779, 123.68)
"""Mean of ImageNet's images in BGR, from 0 to 255, as the first published weights want them."""


@dataclass(frozen=True)
class Convolutions:
    """Thirteen kernels and biases, in order, and how images are prepared for them."""

    weights: tuple[tuple[Tensor, Tensor], ...]
    prepare: Callable[[Tensor], Tensor]

    def network(self) -> nn.Sequential:
        """Return the convolutions with rectified activations and poolings, in evaluation mode."""
        given = iter(self.weights)
        layers: list[nn.Module] = []
        before = 3
        for block in VGG16_BLOCKS:
            for after in block:
                layer = nn.Conv2d(before, after, 3, padding=1)
                kernel, bias = next(given)
                layer.load_state_dict({"weight": kernel, "bias": bias})
                layers += [layer, nn.ReLU(inplace=True)]
                before = after
            layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers).eval().requires_grad_(False)


def read_convolutions(path: Path) -> Convolutions:
    """Return VGG-16's convolutions from a file of torchvision's, or an ONNX file with Keras' weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the thirteen kernels are not in it.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected torchvision's vgg16 weights, or an ONNX file of VGG-16"
        )
    if path.suffix == ".onnx":
        tensors, prepare = dict(_onnx_tensors(path)), _for_keras
    else:
        tensors, prepare = torch.load(path, map_location="cpu", weights_only=True), _for_torchvision
    kernels = [one for _, one in sorted(_named(tensors, 4), key=lambda pair: _numbers(pair[0]))]
    biases = [one for _, one in sorted(_named(tensors, 1), key=lambda pair: _numbers(pair[0]))]
    wanted = kernel_shapes()
    if [tuple(one.shape) for one in kernels] != wanted or [len(one) for one in biases] != [one[0] for one in wanted]:
        raise ValueError(f"{path}: found kernels of {[tuple(one.shape) for one in kernels]}, not those of VGG-16")
    return Convolutions(tuple(zip(kernels, biases, strict=True)), prepare)


def features_of(dataset: Dataset, convolutions: Convolutions, tick: Callable[[int, int], None]) -> Dataset:
    """Return a data set whose images are what the convolutions make of them: 512 channels of one place.

    Images are enlarged to 64 x 64; the four places that five poolings leave are averaged. Nothing is augmented.

    Args:
        dataset: images of three channels, as they are normalised.
        convolutions: of VGG-16.
        tick: called with the number of images that are done, and of all.
    """
    network = convolutions.network()
    halves, done = [dataset.train_images, dataset.test_images], 0
    total = sum(len(images) for images in halves)
    seen: list[Tensor] = []
    for images in halves:
        parts = []
        for some in torch.split(images, BATCH):
            parts.append(_seen(network, convolutions.prepare, some * dataset.deviation + dataset.mean))
            tick(done := done + len(some), total)
        seen.append(torch.cat(parts))
    mean, deviation = seen[0].mean(), seen[0].std()
    train, test = ((one - mean) / deviation for one in seen)
    note = f"{dataset.note + ', ' if dataset.note else ''}enlarged to {SIZE} x {SIZE}, through ImageNet's convolutions"
    return replace(dataset, train_images=train, test_images=test, shift=0, mirror=False, note=note)


@torch.inference_mode()
def _seen(network: nn.Module, prepare: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """Return features, of shape (count, 512, 1, 1), of images in RGB from 0 to 255."""
    large = nn.functional.interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    seen: Tensor = network(prepare(large)).mean((2, 3), keepdim=True)
    return seen


def _for_torchvision(pixels: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(values)[:, None, None] for values in TORCHVISION)
    return (pixels / 255 - mean) / deviation


def _for_keras(pixels: Tensor) -> Tensor:
    return pixels.flip(1) - torch.tensor(KERAS)[:, None, None]


def _onnx_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    import onnx  # noqa: PLC0415 - an extra that only this form needs
    from onnx import numpy_helper  # noqa: PLC0415

    for one in onnx.load(path).graph.initializer:
        if "conv" in one.name:
            yield one.name, torch.from_numpy(numpy_helper.to_array(one).copy())


def _named(tensors: dict[str, Tensor], axes: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a file's convolutions that have so many axes."""
    for name, one in tensors.items():
        if one.ndim == axes and not name.startswith("classifier"):
            yield name, one


def _numbers(name: str) -> tuple[int, ...]:
    """Return the numbers in a name, by which layers are in order.

    >>> _numbers("features.10.weight") > _numbers("features.2.weight")
    True
    """
    return tuple(int(number) for number in re.findall(r"\d+", name))


def kernel_shapes() -> list[tuple[int, int, int, int]]:
    """Return the shapes of VGG-16's kernels, in order."""
    wide = [3, *(channels for block in VGG16_BLOCKS for channels in block)]
    return [(after, before, 3, 3) for before, after in itertools.pairwise(wide)]
