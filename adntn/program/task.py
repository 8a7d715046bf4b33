"""What a layer is to do, and what a schedule is predicted to take for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from adntn.network import Network
from adntn.program.path import Paths
from adntn.program.seconds import STEP
from adntn.tiling import Plan

ScheduleName = Literal["auto", "materialise", "recompute", "stream", "contract"]


@dataclass(frozen=True)
class Task:
    """What a layer is to do.

    Attributes:
        network: what generates its weight.
        paths: the contraction paths that the user has chosen.
        rows: how many vectors (or places of a convolution) the weight is multiplied with.
        training: whether gradients are wanted.
        itemsize: bytes of a number.
        streams: whether the layer can take its weight in tiles of rows.
        contracts: whether it can hand x to the cores.
        compiled: whether a compiler runs the steps, as XLA does: the weight is then made in one piece where it is made
            as a whole, no step takes Python's time, and steps in loops over tiles take longer than others.
        keeps: whether the layer multiplies a matrix with x and can keep it as it was made for the backward pass, where
            its adjoint is then never whole (`adntn.materialising`).
        moments: how many numbers an optimiser keeps for each of a dense layer's, where they count as memory that
            "auto" may take; Adam keeps two.
    """

    network: Network
    paths: Paths = ()
    rows: int = 1
    training: bool = True
    itemsize: int = 4
    streams: bool = True
    contracts: bool = True
    compiled: bool = False
    keeps: bool = False
    moments: int = 0

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.network.layout.shape[0] * (self.network.batch or 1)

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return math.prod(self.network.layout.shape[1:])

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight."""
        return self.out_features * self.in_features * self.itemsize

    @property
    def padded_bytes(self) -> int:
        """Bytes of the weight with the rows and columns that are cut off at the end."""
        return math.prod(self.network.layout.padded_shape) * (self.network.batch or 1) * self.itemsize

    @property
    def is_convolution(self) -> bool:
        """Whether the weight is a kernel."""
        return len(self.network.layout.shape) > 2

    @property
    def dense_bytes(self) -> int:
        """Bytes that the dense layer takes: its weight and, in training, its gradient and the optimiser's moments.

        Libraries of convolutions lay kernels and their gradients out anew, and hold both then.
        """
        copies = 2 if self.is_convolution else 1
        return self.weight_bytes * (2 * copies + self.moments if self.training else copies)

    @property
    def step(self) -> float:
        """Seconds that running a step takes beyond the array library's own call."""
        return 0.0 if self.compiled else STEP


@dataclass(frozen=True)
class Forecast:
    """What a schedule would take.

    Attributes:
        schedule: its name.
        seconds: predicted for a forward pass and, in training, a backward pass.
        bytes: the most held beyond cores, x, y and their gradients.
        plan: how the weight is cut into tiles.
    """

    schedule: ScheduleName
    seconds: float
    bytes: int
    plan: Plan

    @property
    def cost(self) -> str:
        """Time and memory, in words."""
        return _in_words(self.seconds, self.bytes)


@dataclass(frozen=True)
class DenseForecast:
    """What a layer would take that stores its weight.

    Attributes:
        seconds: predicted for a forward pass and, in training, a backward pass; the optimiser's step is left out.
        bytes: of the weight and what training adds to it (`Task.dense_bytes`), beside which x and y count as little as
            they do for a schedule.
    """

    seconds: float
    bytes: int

    @property
    def cost(self) -> str:
        """Time and memory, in words."""
        return _in_words(self.seconds, self.bytes)


def _in_words(seconds: float, size: int) -> str:
    return f"{seconds * 1e3:,.2f} ms predicted, {size:,} bytes"
