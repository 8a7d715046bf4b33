"""Make the pictures of the documentation: `python docs/pictures/pictures.py` writes them beside this file, in seconds."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
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


def side_by_side(drawings: list[drawing.Drawing], file: Path) -> None:
    """Write several drawings as one picture."""
    from matplotlib.figure import Figure

    sizes = [size_of(one.picture) for one in drawings]
    widths, heights = zip(*sizes, strict=True)
    with own_style():
        figure = Figure(figsize=(sum(widths), max(heights)))
        parts = figure.subfigures(1, len(drawings), width_ratios=widths)
        for one, part in zip(drawings, parts, strict=True):
            one.paint(part)
        data = io.BytesIO()
        figure.savefig(data, format=file.suffix[1:], metadata={"Date": None})
    file.write_bytes(data.getvalue())


def trained() -> drawing.Drawing:
    """Return the curves of a training in two stages, of a network for scikit-learn's digits with a generated layer."""
    torch.manual_seed(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
    trained_on, validated_on = random_split(data, [1200, 597])
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    adntn_torch.compress(model, {"2": adntn.MERA.options(bond=4, activation="tanh")})

    def error_rate(network: nn.Module) -> float:
        images, labels = validated_on[:]
        return 1 - float((network(images).argmax(1) == labels).float().mean())

    def optimiser(rate: float) -> training.Stage:
        return training.Stage(
            f"rate {rate:g}",
            training.task(functional.cross_entropy),
            lambda network: torch.optim.AdamW(
                training.parameter_groups(network, cores={"lr": rate}, others={"lr": rate / 10})
            ),
            epochs=6,
            clip=1.0,
            validate=error_rate,
        )

    with TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.jsonl"
        training.run(
            model, [optimiser(2e-2), optimiser(5e-3)], DataLoader(trained_on, 64, shuffle=True), metrics=metrics
        )
        return drawing.curves(metrics, title="a network for digits, its second layer generated")
