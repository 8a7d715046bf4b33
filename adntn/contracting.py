"""The schedule *contract* on arrays: x @ W.T and its adjoint from the cores and x, without the weight.

Many rows come in slabs, so that the results in between stay in the cache and need no memory to speak of. What the cores
make alone is made once; the adjoint makes each slab's results again, instead of keeping those of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from adntn.arrays import SHORT_DTYPES, Array, as_dtype, dtype_name, namespace_of
from adntn.program.contract import LARGEST, Halves, halves, slab_rows
from adntn.program.ir import Program, Tensor
from adntn.program.run import run
from adntn.transposing import padded

if TYPE_CHECKING:
    from adntn.generator import Generator

#: From dL/dy to dL/dx and dL/d(core) by name.
Pullback = Callable[[Array], tuple[Array, dict[str, Array]]]
#: The dimensions of a weight.
OUT, IN = 0, 1


def contracted(generator: Generator, cores: Mapping[str, Array], x: Array, largest: int = LARGEST) -> Array:
    """Return x @ W.T, batched over the leading axes of `x`; what `Generator.apply` checks is not checked again.

    >>> import adntn, numpy
    >>> generator = adntn.TTN((4096, 4096), bond=2, activation="identity")
    >>> cores = generator.init(seed=0)
    >>> contracted(generator, cores, numpy.ones((3, 4096), "float32")).shape
    (3, 4096)

    Args:
        generator: of a matrix (out, in), with no activation after the last level.
        cores: its cores.
        x: shape (..., in); with a batch of weights, (G, ..., in).
        largest: x is taken in slabs of rows, of which no result in between holds more numbers than that.

    Raises:
        ValueError: if the weight is no matrix, or an activation stands after the last level.
    """
    call = _Call(generator, cores, x, largest)
    known = call.known(call.run(call.plan.head, call.cores))
    parts = [call.run(plan.tail, known, x=slab)[0] for plan, slab in call.slabs(call.x)]
    return call.joined(parts, OUT)


def contracted_vjp(
    generator: Generator, cores: Mapping[str, Array], x: Array, largest: int = LARGEST
) -> tuple[Array, Pullback]:
    """Return x @ W.T and its pullback, which takes dL/dy to dL/dx and to dL/d(core) for every core.

    Gradients of complex arrays are with respect to the conjugate. Arguments and errors are those of `contracted`.
    """
    call = _Call(generator, cores, x, largest)
    head = call.plan.head_adjoint
    made = call.run(head.forward, call.cores)
    known = call.known(made)
    kept: list[tuple[Array, ...]] = []
    parts = []
    for plan, slab in call.slabs(call.x):
        forward = plan.tail_adjoint.forward if call.is_one_slab else plan.tail
        y, *residuals = call.run(forward, known, x=slab)
        parts.append(y)
        kept.append(tuple(residuals))

    def pullback(y_bar: Array) -> tuple[Array, dict[str, Array]]:
        bars = {name: call.flat_zeros(array) for name, array in known.items()}
        x_bars = []
        slabs = zip(call.slabs(call.x), call.slabs(call.wide(y_bar, OUT)), kept, strict=True)
        for (plan, x_slab), (_, y_slab), residuals in slabs:
            tail = plan.tail_adjoint
            again = residuals if call.is_one_slab else call.run(tail.forward, known, x=x_slab)[1:]
            given = {**known, **_named(tail.residuals, again), **_named(tail.seeds, (y_slab,))}
            *gradients, x_bar = call.run(tail.backward, given, x=x_slab)
            call.collect(bars, tail.reached[:-1], gradients)
            x_bars.append(x_bar)
        outputs = call.plan.head.outputs
        seeds = [bars[out.name] for out in outputs]
        given = {**call.cores, **_named(head.residuals, made[len(outputs) :]), **_named(head.seeds, seeds)}
        call.collect(bars, head.reached, call.run(head.backward, given))
        return call.joined(x_bars, IN), {
            name: as_dtype(call.functions.reshape(bars[name], core.shape), call.dtype)
            for name, core in call.cores.items()
        }

    return call.joined(parts, OUT), pullback


def _named(tensors: Sequence[Tensor], arrays: Sequence[Array]) -> dict[str, Array]:
    return {tensor.name: array for tensor, array in zip(tensors, arrays, strict=True)}


class _Call:
    """Cores and rows as programs take them: padded, in float32 at least; and what comes back as users want it."""

    def __init__(self, generator: Generator, cores: Mapping[str, Array], x: Array, largest: int) -> None:
        self.network, self.paths = generator.network, generator.paths
        self.functions = namespace_of(cores.values())
        self.dtype, self.shape = dtype_name(x), tuple(x.shape)
        self.computed = "float32" if self.dtype in SHORT_DTYPES else self.dtype
        self.lead = () if self.network.batch is None else (self.network.batch,)
        self.rows: int = math.prod(self.shape[len(self.lead) : -1])
        self.slab: int = slab_rows(self.network, max(self.rows, 1), largest, self.paths)
        self.plan = halves(self.network, self.slab, self.paths, self.slab)
        self.cores = {name: as_dtype(core, self.computed) for name, core in cores.items()}
        self.x = self.wide(x, IN)

    @property
    def is_one_slab(self) -> bool:
        return self.rows <= self.slab

    def slabs(self, array: Array) -> list[tuple[Halves, Array]]:
        """Return the rows of an array in slabs, with the programs for so many rows."""
        starts = range(0, self.rows, self.slab)
        stops = [min(start + self.slab, self.rows) for start in starts]
        axes = (slice(None),) * len(self.lead)
        return [
            (halves(self.network, stop - start, self.paths, self.slab), array[(*axes, slice(start, stop), ...)])
            for start, stop in zip(starts, stops, strict=True)
        ]

    def known(self, made: Sequence[Array]) -> dict[str, Array]:
        """Return what tails read, by name: the cores and what the head has made."""
        outputs = self.plan.head.outputs
        return {**self.cores, **_named(outputs, made[: len(outputs)])}

    def run(self, program: Program, given: Mapping[str, Array], x: Array | None = None) -> tuple[Array, ...]:
        """Return the results of a program."""
        own = {} if x is None else {self.plan.x.name: x}
        return run(program, {**given, **own}, self.functions)

    def flat_zeros(self, array: Array) -> Array:
        """Return zeros to add shares of an adjoint to: a vector, as sums of arrays without axes are none in NumPy."""
        return self.functions.zeros_like(self.functions.reshape(array, (-1,)))

    def collect(self, bars: dict[str, Array], tensors: Sequence[Tensor], shares: Sequence[Array]) -> None:
        """Add shares to adjoints."""
        for tensor, share in zip(tensors, shares, strict=True):
            bars[tensor.name] = bars[tensor.name] + self.functions.reshape(share, (-1,))

    def wide(self, array: Array, dimension: int) -> Array:
        """Return rows as programs take them."""
        size, whole = (sizes[dimension] for sizes in (self.network.layout.shape, self.network.layout.padded_shape))
        flat = self.functions.reshape(as_dtype(array, self.computed), (*self.lead, self.rows, size))
        return padded(flat, len(self.lead) + 1, size, whole, self.functions)

    def joined(self, parts: Sequence[Array], dimension: int) -> Array:
        """Return slabs of rows as users want them: with the leading axes of x, without the padding."""
        size, whole = (sizes[dimension] for sizes in (self.network.layout.shape, self.network.layout.padded_shape))
        shape = (*self.shape[:-1], size)
        if not parts:
            return as_dtype(self.functions.reshape(self.x, shape), self.dtype)  # no rows, no numbers
        shaped = [self.functions.reshape(part, (*self.lead, -1, whole)) for part in parts]
        together = shaped[0] if len(shaped) == 1 else self.functions.concatenate(shaped, len(self.lead))
        return as_dtype(self.functions.reshape(together[..., :size], shape), self.dtype)
