"""Count, time and fit generators for every layer of AlexNet and VGG-16 as ImageNet's networks have them.

    python examples/measure_layers.py --out docs/results/paper --weights vgg16.onnx

writes `imagenet-layers.jsonl`: for each layer, topology and bond what is stored and, unless `--repeats 0` is given, how
long its weight takes to be generated beside copying one; with weights also `imagenet-fits.jsonl`: how near generators
come to the trained kernels, and to the same numbers in random order.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import adntn
from adntn.benchmarking.measure import interleaved
from arguments import positive, processors
from features import kernel_shapes, read_convolutions
from networks import VGG16_BLOCKS
from run_experiments import write_results

Shape = tuple[int, ...]
ALEXNET: dict[str, Shape] = {
    "conv1": (64, 3, 11, 11),
    "conv2": (192, 64, 5, 5),
    "conv3": (384, 192, 3, 3),
    "conv4": (256, 384, 3, 3),
    "conv5": (256, 256, 3, 3),
    "fc6": (4096, 9216),
    "fc7": (4096, 4096),
    "fc8": (1000, 4096),
}
"""A. Krizhevsky, arXiv:1404.5997, as torchvision has it."""
VGG16: dict[str, Shape] = {
    **dict(
        zip(
            (f"conv{block}_{n}" for block, wide in enumerate(VGG16_BLOCKS, 1) for n in range(1, len(wide) + 1)),
            kernel_shapes(),
            strict=True,
        )
    ),
    "fc6": (4096, 25088),
    "fc7": (4096, 4096),
    "fc8": (1000, 4096),
}
TOPOLOGIES: dict[str, adntn.Topology[Any]] = {"TTN": adntn.TTN, "aTTN": adntn.AugmentedTTN, "MERA": adntn.MERA}
BONDS = (2, 4, 8)
FITTED = {
    "TTN, bond 4": adntn.TTN.options(bond=4, activation="identity"),
    "TTN, bond 4, tanh": adntn.TTN.options(bond=4, activation="tanh"),
    "MERA, bond 4": adntn.MERA.options(bond=4, activation="identity"),
    "MERA, bond 4, tanh": adntn.MERA.options(bond=4, activation="tanh"),
    "tensor train, bond 4": adntn.TensorTrain.options(bond=4),
    "TTN, bond 16": adntn.TTN.options(bond=16, activation="identity"),
    "low rank, rank 8": adntn.LowRank.options(rank=8),
}


def counted(repeats: int) -> Iterable[dict[str, Any]]:
    """Yield a row for each layer, topology and bond; equal shapes are timed once."""
    known: dict[tuple[Shape, str, int], dict[str, Any]] = {}
    for network, layers in (("AlexNet", ALEXNET), ("VGG-16", VGG16)):
        for layer, shape in layers.items():
            for name, topology in TOPOLOGIES.items():
                for bond in BONDS:
                    key = (shape, name, bond)
                    if key not in known:
                        known[key] = timed(topology(shape, bond=bond, activation="tanh"), repeats)
                    yield {"network": network, "layer": layer, "topology": name, "bond": bond, **known[key]}


def timed(generator: adntn.Generator, repeats: int) -> dict[str, Any]:
    """Return what a generator stores, and the median seconds to make its weight and to copy one, in turns.

    Without repeats nothing is made, and no times are returned.
    """
    counts = {
        "shape": generator.shape,
        "weights": math.prod(generator.shape),
        "stored": generator.parameters,
        "ratio": generator.ratio,
    }
    if not repeats:
        return counts
    cores = generator.init(seed=0, backend="torch")
    out, other = torch.empty(generator.shape), torch.zeros(generator.shape)
    calls = {"generate": lambda: generator.weight(cores, out=out), "copy": lambda: out.copy_(other)}
    times = interleaved(calls, repeats=repeats)
    return {
        **counts,
        "generate_seconds": times["generate"].median,
        "copy_seconds": times["copy"].median,
        "relative": times["generate"].median / times["copy"].median,
        "threads": torch.get_num_threads(),
    }


def fitted(weights: Path, steps: int) -> Iterable[dict[str, Any]]:
    """Yield the relative error with which each kind of generator fits each trained kernel, and its shuffled numbers.

    What a generator explains of shuffled numbers is what it can explain of anything, by as many numbers as it has.
    """
    kernels = [kernel.detach() for kernel, _ in read_convolutions(weights).weights]
    random = torch.Generator().manual_seed(0)
    layers = [(name, shape) for name, shape in VGG16.items() if len(shape) == 4]
    for (layer, shape), kernel in zip(layers, kernels, strict=True):
        shuffled = kernel.flatten()[torch.randperm(kernel.numel(), generator=random)].reshape(shape)
        for name, options in FITTED.items():
            generator = options(shape)
            started = time.perf_counter()
            errors = [adntn.fit(generator, one, iterations=steps).error for one in (kernel, shuffled)]
            yield {
                "layer": layer,
                "version": name,
                "stored": generator.parameters,
                "ratio": generator.ratio,
                "steps": steps,
                "relative_error": errors[0],
                "shuffled_error": errors[1],
                "seconds": time.perf_counter() - started,
            }


def main(given: Iterable[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("results", "paper"), help="default: %(default)s")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="VGG-16 of ImageNet: fit its kernels too")
    parser.add_argument("--repeats", type=int, default=5, help="of each time; 0: count only (default: %(default)s)")
    parser.add_argument("--steps", type=positive, default=15, help="of L-BFGS in each fit (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=processors(), help="default: %(default)s")
    arguments = parser.parse_args(None if given is None else list(given))
    torch.set_num_threads(arguments.threads)
    try:
        if arguments.weights is not None:
            write_results(arguments.out / "imagenet-fits.jsonl", list(fitted(arguments.weights, arguments.steps)))
        write_results(arguments.out / "imagenet-layers.jsonl", list(counted(arguments.repeats)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
