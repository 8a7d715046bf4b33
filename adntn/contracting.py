"""The schedule *contract* on arrays: x @ W.T and its adjoint from the cores and x, without the weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from adntn.arrays import SHORT_DTYPES, Array, Namespace, as_dtype, dtype_name, namespace_of, padded
from adntn.network import Network
from adntn.program.contract import contraction, contraction_adjoint
from adntn.program.ir import Program
from adntn.program.run import run

if TYPE_CHECKING:
    from adntn.generator import Generator

#: From dL/dy to dL/dx and dL/d(core) by name.
Pullback = Callable[[Array], tuple[Array, dict[str, Array]]]


def contracted(generator: Generator, cores: Mapping[str, Array], x: Array) -> Array:
    """Return x @ W.T, batched over the leading axes of `x`; what `Generator.apply` checks is not checked again.

    Args:
        generator: of a matrix (out, in), with no activation after the last level.
        cores: its cores.
        x: shape (..., in); with a batch of weights, (G, ..., in).

    Raises:
        ValueError: if the weight is no matrix, or an activation stands after the last level.
    """
    given = _Given(generator.network, x)
    if given.rows == 0:
        contraction(generator.network, 1, generator.paths)  # what cannot be contracted is refused here too
        return given.empty(namespace_of([x]))
    functions = namespace_of(cores.values())
    program = contraction(generator.network, given.rows, generator.paths)
    (y,) = run(program, given.inputs(program, cores, functions), functions)
    return given.cropped(y, functions)


def contracted_vjp(generator: Generator, cores: Mapping[str, Array], x: Array) -> tuple[Array, Pullback]:
    """Return x @ W.T and its pullback, which takes dL/dy to dL/dx and to dL/d(core) for every core.

    Gradients of complex arrays are with respect to the conjugate. Arguments and errors are those of `contracted`.
    """
    given = _Given(generator.network, x)
    functions = namespace_of(cores.values())
    if given.rows == 0:
        zeros = {name: functions.zeros_like(core) for name, core in cores.items()}
        return contracted(generator, cores, x), lambda y_bar: (functions.zeros_like(x), zeros)
    reverse = contraction_adjoint(generator.network, given.rows, generator.paths)
    inputs = given.inputs(reverse.forward, cores, functions)
    y, *residuals = run(reverse.forward, inputs, functions)
    kept = dict(zip((tensor.name for tensor in reverse.residuals), residuals, strict=True))

    def pullback(y_bar: Array) -> tuple[Array, dict[str, Array]]:
        seed = {reverse.seeds[0].name: given.padded_rows(y_bar, functions)}
        *gradients, x_bar = run(reverse.backward, {**inputs, **kept, **seed}, functions)
        return given.cropped_columns(x_bar, functions), {
            tensor.name: as_dtype(functions.reshape(gradient, cores[tensor.name].shape), given.dtype)
            for tensor, gradient in zip(reverse.reached, gradients, strict=False)
        }

    return given.cropped(y, functions), pullback


class _Given:
    """What users hand in and get back, against what programs take and make: flat, padded and in float32 at least."""

    def __init__(self, network: Network, x: Array) -> None:
        self.network, self.x, self.dtype = network, x, dtype_name(x)
        self.lead = () if network.batch is None else (network.batch,)
        self.rows = math.prod(x.shape[len(self.lead) : -1])
        self.computed = "float32" if self.dtype in SHORT_DTYPES else self.dtype

    def inputs(self, program: Program, cores: Mapping[str, Array], functions: Namespace) -> dict[str, Array]:
        """Return the program's inputs."""
        name = program.inputs[-1].name
        return {**{key: as_dtype(core, self.computed) for key, core in cores.items()}, name: self._wide(self.x, 1, functions)}

    def padded_rows(self, y_bar: Array, functions: Namespace) -> Array:
        """Return dL/dy as programs take it."""
        return self._wide(y_bar, 0, functions)

    def cropped(self, y: Array, functions: Namespace) -> Array:
        """Return y of the shape (..., out)."""
        return self._narrow(y, 0, functions)

    def cropped_columns(self, x_bar: Array, functions: Namespace) -> Array:
        """Return dL/dx of the shape of x."""
        return self._narrow(x_bar, 1, functions)

    def empty(self, functions: Namespace) -> Array:
        """Return y of the shape (..., out) where that holds no number."""
        return functions.reshape(self.x, (*self.x.shape[:-1], self.network.layout.shape[0]))

    def _wide(self, array: Array, dimension: int, functions: Namespace) -> Array:
        size, whole = (sizes[dimension] for sizes in (self.network.layout.shape, self.network.layout.padded_shape))
        flat = functions.reshape(as_dtype(array, self.computed), (*self.lead, self.rows, size))
        return padded(flat, len(self.lead) + 1, size, whole, functions)

    def _narrow(self, array: Array, dimension: int, functions: Namespace) -> Array:
        size, whole = (sizes[dimension] for sizes in (self.network.layout.shape, self.network.layout.padded_shape))
        if size != whole:
            array = functions.reshape(array, (*self.lead, self.rows, whole))[..., :size]
        return as_dtype(functions.reshape(array, (*self.x.shape[:-1], size)), self.dtype)
