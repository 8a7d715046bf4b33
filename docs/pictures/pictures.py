"""Make the pictures of the documentation: `python docs/pictures/pictures.py` writes them beside this file."""

from __future__ import annotations

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
from adntn_torch import training

FOLDER = Path(__file__).parent


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
    networks = {
        "ttn": adntn.TTN((16, 16), bond=2),
        "augmented-ttn": adntn.AugmentedTTN((16, 16), bond=2),
        "mera": adntn.MERA((16, 16), bond=2),
        "mera-24-legs": adntn.MERA((4096, 4096), bond=2, activation="tanh"),
        "periodic-mera": adntn.MERA((64, 64), bond=4, leg=2, border="periodic"),
        "brickwall": adntn.Brickwall((16, 16), depth=2),
        "tensor-train": adntn.TensorTrain((64, 64), bond=4, depth=2),
        "low-rank": adntn.LowRank((4096, 512), rank=8),
        "tucker": adntn.Tucker((512, 256, 3, 3), rank=(16, 16, 3, 3), activation="tanh"),
    }
    for name, generator in networks.items():
        generator.draw().save(FOLDER / f"{name}.svg")
    networks["mera-24-legs"].draw("costs").save(FOLDER / "costs.svg")
    for bond in (2, 8):
        generator = adntn.MERA((256, 256), bond=bond, activation="tanh")
        generator.draw("weight", generator.init(seed=0)).save(FOLDER / f"weight-bond-{bond}.png")
    trained().save(FOLDER / "curves.svg")


if __name__ == "__main__":
    main()
