"""A small optimiser for cores of any array library; they stay where they are, nothing is read back to the host.

For libraries that bring no optimisers of their own (NumPy, CuPy). Cores are few, so all of them are one vector here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from adntn.arrays import SHORT_DTYPES, Array, as_dtype, check_alike, dtype_name, flatten, namespace_of, unflatten


class AdamState(NamedTuple):
    """What Adam remembers between two steps, as vectors over all elements of all cores.

    Attributes:
        step: how many steps were taken.
        mean: the running mean of the gradients.
        square: the running mean of their squared magnitudes.
    """

    step: int
    mean: Array
    square: Array


@dataclass(frozen=True)
class Adam:
    """The optimiser Adam; moments of 16-bit cores are kept in float32.

    >>> import adntn
    >>> generator = adntn.TTN((16, 16), bond=2)
    >>> cores, adam = generator.init(seed=0), Adam(learning_rate=1e-2)
    >>> state = adam.init(cores)
    >>> for _ in range(50):  # towards a weight of zeros
    ...     weight, pullback = generator.vjp(cores)
    ...     cores, state = adam.update(cores, pullback(weight), state)
    >>> bool(abs(generator.weight(cores)).max() < abs(generator.weight(generator.init(seed=0))).max())
    True

    Attributes:
        learning_rate: about how far each number moves in a step; above 0.
        decay: of the two running means, each in [0, 1).
        epsilon: added to the root of the mean square.

    Raises:
        ValueError: if one of these is out of range.

    Source: D. P. Kingma and J. Ba, arXiv:1412.6980; for complex numbers, with the squared magnitude.
    """

    learning_rate: float = 1e-2
    decay: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not all(0 <= decay < 1 for decay in self.decay):
            raise ValueError(f"decay must be two numbers in [0, 1), got {self.decay}")
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon must be at least 0, got {self.epsilon}")

    def init(self, cores: Mapping[str, Array]) -> AdamState:
        """Return the state before the first step."""
        check_alike(cores, "cores")
        zeros = namespace_of(cores.values()).zeros_like(_vector(cores, cores))
        return AdamState(0, zeros, zeros)

    def update(
        self, cores: Mapping[str, Array], gradients: Mapping[str, Array], state: AdamState
    ) -> tuple[dict[str, Array], AdamState]:
        """Return the cores one step further, as new arrays, and the state after it.

        Args:
            cores: by name.
            gradients: of the same names and shapes, as the pullback of `Generator.vjp` returns them.
            state: from `init` or the last `update`.

        Raises:
            KeyError: if a gradient is missing or unknown.
            ValueError: if a gradient has another shape than its core.
            TypeError: if cores and gradients differ in library, number type or device.
        """
        if cores.keys() != gradients.keys():
            name = sorted(cores.keys() ^ gradients.keys())[0]
            raise KeyError(f"cores and gradients must have the same names, but only one has {name!r}")
        shapes = {name: tuple(core.shape) for name, core in cores.items()}
        for name, shape in shapes.items():
            if tuple(gradients[name].shape) != shape:
                raise ValueError(f"gradient {name!r} must have the shape {shape}, got {tuple(gradients[name].shape)}")
            check_alike({"the core": cores[name], "its gradient": gradients[name]}, repr(name))
        here, gradient = _vector(cores, cores), _vector(cores, gradients)
        conjugate = namespace_of([gradient]).conj(gradient)
        first, second = self.decay
        step = state.step + 1
        mean = first * state.mean + (1 - first) * gradient
        square = second * state.square + (1 - second) * (gradient * conjugate)
        root = (square / (1 - second**step)) ** 0.5 + self.epsilon
        moved = here - self.learning_rate / (1 - first**step) * (mean / root)
        dtype = dtype_name(next(iter(cores.values())))
        return unflatten(as_dtype(moved, dtype), shapes), AdamState(step, mean, square)


def _vector(names: Mapping[str, Array], arrays: Mapping[str, Array]) -> Array:
    """Return arrays as one vector in the order of `names`, 16-bit numbers as float32."""
    vector = flatten({name: arrays[name] for name in names})
    return as_dtype(vector, "float32") if dtype_name(vector) in SHORT_DTYPES else vector
