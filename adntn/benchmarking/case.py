"""What is computed: a weight of some shape from some network, met by a batch of inputs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import adntn
from adntn.generator import Generator
from adntn.topologies.topology import Options, Topology

#: The topologies that cases name; all of them take a bond and activations.
TOPOLOGIES: dict[str, Topology[Any]] = {
    topology.name: topology for topology in (adntn.TTN, adntn.AugmentedTTN, adntn.MERA)
}
#: Bytes of one number.
ITEMSIZES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Case:
    """A layer and its inputs.

    >>> Case((4096, 4096), bond=4, batch=256).x_shape
    (256, 4096)

    Attributes:
        shape: the weight's: (out, in), or (out, in, height, width) of a convolution.
        topology: "TTN", "AugmentedTTN" or "MERA".
        bond: its bond dimension.
        batch: how many inputs.
        activation: between the levels.
        last_activation: after the last level.
        dtype: of weights and inputs.
        device: where, as torch names it.
        image: height and width of a convolution's inputs, which are padded so that outputs are as large.
    """

    shape: tuple[int, ...]
    topology: str = "TTN"
    bond: int = 2
    batch: int = 32
    activation: str = "tanh"
    last_activation: str = "identity"
    dtype: str = "float32"
    device: str = "cpu"
    image: int = 14

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 4):
            raise ValueError(f"shape must be (out, in) or (out, in, height, width), got {self.shape}")
        if self.topology not in TOPOLOGIES:
            raise ValueError(f"topology must be one of {', '.join(TOPOLOGIES)}, got {self.topology!r}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if self.dtype not in ITEMSIZES:
            raise ValueError(f"dtype must be one of {', '.join(ITEMSIZES)}, got {self.dtype!r}")

    @property
    def options(self) -> Options:
        """The topology with its options."""
        return TOPOLOGIES[self.topology].options(
            bond=self.bond, activation=self.activation, last_activation=self.last_activation
        )

    @property
    def generator(self) -> Generator:
        """The generator of the weight."""
        return self.options(self.shape)

    @property
    def is_convolution(self) -> bool:
        """Whether the weight is a convolution's kernel."""
        return len(self.shape) == 4

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of the inputs."""
        image = (self.image, self.image) if self.is_convolution else ()
        return (self.batch, self.shape[1], *image)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """Shape of the outputs."""
        return (self.batch, self.shape[0], *self.x_shape[2:])

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return ITEMSIZES[self.dtype]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight."""
        return math.prod(self.shape) * self.itemsize

    @property
    def x_bytes(self) -> int:
        """Bytes of the inputs."""
        return math.prod(self.x_shape) * self.itemsize

    @property
    def y_bytes(self) -> int:
        """Bytes of the outputs."""
        return math.prod(self.y_shape) * self.itemsize

    def to_json(self) -> dict[str, Any]:
        """Return the case as JSON has it."""
        return {**asdict(self), "shape": list(self.shape)}

    @staticmethod
    def from_json(entry: dict[str, Any]) -> Case:
        """Return the case that `to_json` wrote."""
        return Case(**{**entry, "shape": tuple(entry["shape"])})

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        last = "" if self.last_activation == "identity" else f", {self.last_activation} at the end"
        inner = "linear" if self.activation == "identity" else self.activation
        where = "" if self.device == "cpu" else f", {self.device}"
        return f"{shape}, {self.topology} bond {self.bond}, {inner}{last}, batch {self.batch}, {self.dtype}{where}"
