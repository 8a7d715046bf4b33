"""A compressed VGG-16 in files: how large they are beside dense ones, and what other libraries read from them.

Every layer is generated from the cores with which it starts: this is about files, not about what the network has
learned (that is in `compress_network.py`). Writes a page of tables:

    python examples/compressed_file.py --out docs/results/files.md
"""

from __future__ import annotations

import argparse
import copy
import importlib
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import autoray
import numpy as np
import torch
from safetensors.torch import save_model
from torch import nn

import adntn
import adntn_torch
from networks import HIDDEN_LAYERS, vgg16

TOPOLOGY = adntn.TTN.options(bond=4)
#: What is generated, by the name of the row.
VERSIONS: dict[str, Mapping[str, adntn.Options | None]] = {
    "the two hidden linear layers generated": dict.fromkeys(HIDDEN_LAYERS, TOPOLOGY),
    "all layers generated": {"features.0": adntn.TTN.options(bond=2), "*": TOPOLOGY},
}
LIBRARIES = ("numpy", "torch", "jax")


def main(arguments: list[str] | None = None) -> None:
    """Write the files, read them back, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--size", type=int, default=224, help="height and width of the images (default: 224)")
    parser.add_argument("--classes", type=int, default=1000, help="(default: 1000)")
    parser.add_argument("--hidden", type=int, default=4096, help="size of the hidden layers (default: 4096)")
    parser.add_argument("--out", type=Path, help="the page to write; by default it is printed")
    options = parser.parse_args(arguments)

    def build() -> nn.Module:
        return vgg16(size=options.size, classes=options.classes, hidden=options.hidden).eval()

    with tempfile.TemporaryDirectory() as folder:
        text = page(build, options.size, Path(folder))
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text, encoding="utf-8")


def page(build: Callable[[], nn.Module], size: int, folder: Path) -> str:
    """Return the page."""
    torch.manual_seed(0)
    dense = build()
    save_model(dense, str(folder / "dense"))
    sizes = {"dense, safetensors": (folder / "dense").stat().st_size}
    for name, rules in VERSIONS.items():
        model = copy.deepcopy(dense)
        adntn_torch.compress(model, rules)
        adntn_torch.save_compressed(model, folder / name)
        sizes[f"{name}, safetensors"] = (folder / name).stat().st_size
    del dense
    loaded = adntn_torch.load_compressed(build, folder / name).eval()
    same = torch.equal(_vector(model), _vector(loaded))
    weights = "\n".join(_row(library, folder / name) for library in LIBRARIES if find_spec(library))
    images = torch.randn(1, 3, size, size)
    outputs = []
    for title, expand in (("expanded", True), ("all layers generated", False)):
        file = folder / f"{title}.onnx"
        adntn_torch.export_onnx(loaded, (images,), file, expand=expand)
        sizes[f"{title}, ONNX"] = file.stat().st_size
        outputs.append(f"| {title} | {_relative(_run(file, images), loaded(images).detach().numpy()):.1e} |")
    whole = next(iter(sizes.values()))
    files = "\n".join(f"| {name} | {count:,} | {whole / count:,.1f} |" for name, count in sizes.items())
    numbers = sum(parameter.numel() for parameter in build().parameters())
    return f"""# Files

Made by `python examples/compressed_file.py --out docs/results/files.md`: VGG-16 with batch normalisation for images of
{size} x {size}, {numbers:,} parameters in float32. All generated weights are TTNs of bond 4 (of the first convolution,
bond 2), as they start: these tables are about files, not about what a network with so few parameters can learn.

| file | bytes | smaller by |
|---|---:|---:|
{files}

What is left beside the cores are biases, batch normalisation and the header that spells out the generators.
`load_compressed` gives back every tensor bit by bit: {"yes" if same else "no"}.

The file with all layers generated, read by `adntn.load`: the largest relative difference, over all its weights, from
the weights that NumPy makes of the same cores in double precision.

| library | weights | largest relative difference |
|---|---:|---:|
{weights}

Outputs of the ONNX files in onnxruntime, for one image: relative difference from torch's.

| file | relative difference |
|---|---:|
{chr(10).join(outputs)}
"""


def _vector(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


def _row(library: str, file: Path) -> str:
    """Return the row of a library in the table of weights."""
    loaded = adntn.load(file, backend=library)
    reference = adntn.load(file)
    worst = 0.0
    for name, (generator, cores) in loaded.items():
        double = {core: array.astype("float64") for core, array in reference[name][1].items()}
        worst = max(worst, _relative(autoray.to_numpy(generator.weight(cores)), generator.weight(double)))
    version = importlib.import_module(library).__version__
    return f"| {library} {version} | {len(loaded)} | {worst:.1e} |"


def _relative(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _run(file: Path, images: torch.Tensor) -> Any:
    session = importlib.import_module("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


if __name__ == "__main__":
    main()
