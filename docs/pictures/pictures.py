"""Make the pictures of the documentation: `python docs/pictures/pictures.py` writes them beside this file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

import adntn
import adntn_torch
from adntn import drawing
from adntn.drawing.painting import own_style, size_of
from adntn_torch import training

FOLDER = Path(__file__).parent


def side_by_side(drawings: Sequence[drawing.Drawing], file: Path) -> None:
    """Write several drawings as one picture, SVG or PNG."""
    widths, heights = zip(*(size_of(one.picture) for one in drawings), strict=True)
    data = io.BytesIO()
    with own_style():
        figure = Figure(figsize=(sum(widths), max(heights)))
        parts = figure.subfigures(1, len(drawings), width_ratios=widths)
        for one, part in zip(drawings, parts, strict=True):
            one.paint(part)
        figure.savefig(data, format=file.suffix[1:], metadata={"Date": None} if file.suffix == ".svg" else None)
    file.write_bytes(data.getvalue())


def trained() -> drawing.Drawing:
    """Return the curves of two stages of training a network for scikit-learn's digits, one layer of it generated."""
    torch.manual_seed(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
    trained_on, validated_on = random_split(data, [1200, 597])
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    adntn_torch.compress(model, {"2": adntn.MERA.options(bond=4, activation="tanh")})

    def error_rate(network: nn.Module) -> float:
        images, labels = validated_on[:]
        return 1 - float((network(images).argmax(1) == labels).float().mean())

    def stage(name: str, rate: float) -> training.Stage:
        def optimiser(network: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.AdamW(training.parameter_groups(network, cores={"lr": rate}, others={"lr": rate / 10}))

        task = training.task(functional.cross_entropy)
        return training.Stage(name, task, optimiser, epochs=6, clip=1.0, validate=error_rate)

    batches = DataLoader(trained_on, 64, shuffle=True)
    with TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.jsonl"
        training.run(model, [stage("coarse", 2e-2), stage("fine", 5e-3)], batches, metrics=metrics)
        return drawing.curves(metrics, title="a network for digits, one layer generated")


def main() -> None:
    """Write all pictures."""
    trees = [topology((16, 16), bond=2) for topology in (adntn.TTN, adntn.AugmentedTTN, adntn.MERA)]
    side_by_side([one.draw() for one in trees], FOLDER / "architectures.svg")
    adntn.MERA((4096, 4096), bond=2, activation="tanh").draw().save(FOLDER / "mera.svg")
    adntn.MERA((64, 64), bond=4, leg=2, border="periodic").draw().save(FOLDER / "periodic.svg")
    adntn.Brickwall((16, 16), depth=2).draw().save(FOLDER / "brickwall.svg")
    adntn.TensorTrain((64, 64), bond=4, depth=2).draw().save(FOLDER / "tensor-train.svg")
    kernel = adntn.Tucker((512, 256, 3, 3), rank=(16, 16, 3, 3), activation="tanh")
    side_by_side([adntn.LowRank((4096, 512), rank=8).draw(), kernel.draw()], FOLDER / "low-rank.svg")
    adntn.MERA((4096, 4096), bond=2, activation="tanh").draw("costs").save(FOLDER / "costs.svg")
    weights = [topology((256, 256), bond=2) for topology in (adntn.TTN, adntn.AugmentedTTN, adntn.MERA)]
    side_by_side([one.draw("weight", one.init(seed=0)) for one in weights], FOLDER / "weights.png")
    trained().save(FOLDER / "curves.svg")


if __name__ == "__main__":
    main()
