"""A data set whose items go through a generated layer: in a module, from which the processes of workers import it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


class Features(Dataset[Tensor]):
    """Four items."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __len__(self) -> int:
        return 4

    @torch.no_grad()
    def __getitem__(self, place: int) -> Tensor:
        return self.layer(torch.full((16,), float(place)))
