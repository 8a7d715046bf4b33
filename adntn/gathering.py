"""Rows of a weight on arrays, for tokens of which each names one, and the adjoint of that.

Many tokens come in slabs, so that nothing made for them is large; what the cores make alone is made once. The adjoint
makes each slab's results again, instead of keeping those of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adntn import pieces
from adntn.arrays import SHORT_DTYPES, Array, as_dtype, dtype_name, namespace_of
from adntn.network import SCALE
from adntn.program.forecast import LARGEST
from adntn.program.gather import Lookup, Selection, lookup, slab_tokens
from adntn.program.ir import Tensor
from adntn.program.run import run

if TYPE_CHECKING:
    from adntn.generator import Generator

#: From dL/d(rows) to dL/d(core) by name.
Pullback = Callable[[Array], dict[str, Array]]


def gathered(generator: Generator, cores: Mapping[str, Array], indices: Array, largest: int = LARGEST) -> Array:
    """Return rows of the weight; what `Generator.rows` checks is not checked again.

    >>> import adntn, numpy
    >>> generator = adntn.TTN((30522, 384), bond=4)
    >>> gathered(generator, generator.init(), numpy.array([[101, 7592], [2088, 102]])).shape
    (2, 2, 384)

    Args:
        generator: of the weight.
        cores: its cores.
        indices: numbers of rows, integers of any shape; those of rows that there are not give no error.
        largest: tokens are taken in slabs, for which no result in between holds more numbers than that.
    """
    call = _Call(generator, cores, indices, largest)
    known = call.known(run(call.plan.head, call.cores, call.functions))
    return call.rows(known)


def gathered_vjp(
    generator: Generator, cores: Mapping[str, Array], indices: Array, largest: int = LARGEST
) -> tuple[Array, Pullback]:
    """Return rows of the weight and their pullback, which takes dL/d(rows) to dL/d(core) for every core.

    Gradients of complex cores are with respect to the conjugate. Arguments are those of `gathered`.
    """
    call = _Call(generator, cores, indices, largest)
    functions, head = call.functions, call.plan.head_adjoint
    made = run(head.forward, call.cores, functions)
    known = call.known(made)

    def pullback(rows_bar: Array) -> dict[str, Array]:
        bars = {name: functions.zeros_like(functions.reshape(array, (-1,))) for name, array in known.items()}
        call.pull_back(known, rows_bar, bars)
        outputs = call.plan.head.outputs
        given = {**call.cores, **_named(head.residuals, made[len(outputs) :])}
        given |= _named(head.seeds, [bars[out.name] for out in outputs])
        call.collect(bars, head.reached, run(head.backward, given, functions))
        return {
            name: as_dtype(functions.reshape(bars[name], core.shape), call.dtype) for name, core in call.cores.items()
        }

    return call.rows(known), pullback


def _named(tensors: Sequence[Tensor], arrays: Sequence[Array]) -> dict[str, Array]:
    return {tensor.name: array for tensor, array in zip(tensors, arrays, strict=True)}


class _Call:
    """Cores and tokens as programs take them, and what comes back as users want it."""

    def __init__(self, generator: Generator, cores: Mapping[str, Array], indices: Array, largest: int) -> None:
        self.network, self.paths = generator.network, generator.paths
        self.functions = namespace_of(cores.values())
        self.dtype = dtype_name(cores[SCALE])
        self.computed = "float32" if self.dtype in SHORT_DTYPES else self.dtype
        self.cores = {name: as_dtype(core, self.computed) for name, core in cores.items()}
        self.lead = () if self.network.batch is None else (self.network.batch,)
        self.shape, self.columns = tuple(indices.shape), self.network.layout.shape[1:]
        self.tokens = math.prod(self.shape)
        self.indices = self.functions.reshape(indices, (-1,)) if self.tokens else None
        self.slab = slab_tokens(self.network, max(self.tokens, 1), largest, self.paths)
        self.plan = lookup(self.network, self.slab, self.paths)

    @property
    def axis(self) -> int:
        """The axis of tokens."""
        return len(self.lead)

    def slabs(self) -> list[tuple[Lookup, slice]]:
        """Return tokens that are looked up together, with the programs for so many; without tokens, one for nobody."""
        stops = [min(start + self.slab, self.tokens) for start in range(0, self.tokens, self.slab)] or [1]
        starts = [0, *stops[:-1]]
        return [
            (lookup(self.network, stop - start, self.paths, self.slab), slice(start, stop))
            for start, stop in zip(starts, stops, strict=True)
        ]

    def known(self, made: Sequence[Array]) -> dict[str, Array]:
        """Return what tails read, by name: the cores and what the head has made."""
        outputs = self.plan.head.outputs
        return {**self.cores, **_named(outputs, made[: len(outputs)])}

    def cut(self, known: Mapping[str, Array]) -> dict[str, Array]:
        """Return what tokens read a piece of, in pieces."""
        return {one.tensor.name: one.cut(known[one.source.name], self.functions) for one in self.plan.selections}

    def read(self, cut: Mapping[str, Array], numbers: Mapping[str, Any]) -> dict[str, Array]:
        """Return the pieces that tokens read."""
        axes = (slice(None),) * self.axis
        return {
            name: array[(*axes, slice(0, 1))] if numbers[name] is None else pieces.take(array, numbers[name], self.axis)
            for name, array in cut.items()
        }

    def numbers(self, part: slice) -> dict[str, Any]:
        """Return, for all that tokens read pieces of, their numbers; None where there is no token."""
        indices = None if self.indices is None else self.indices[part]
        return {
            one.tensor.name: None if indices is None else one.numbers(indices) for one in self.plan.selections
        }

    def rows(self, known: Mapping[str, Array]) -> Array:
        """Return the rows of all tokens, of the cores' number type."""
        cut, parts = self.cut(known), []
        for plan, part in self.slabs():
            given = {**known, **self.read(cut, self.numbers(part))}
            (state,) = run(plan.tail, given, self.functions)
            parts.append(plan.assembly.assemble(state, self.functions))
        made = parts[0] if len(parts) == 1 else self.functions.concatenate(parts, self.axis)
        if not self.tokens:
            made = made[(*(slice(None),) * self.axis, slice(0, 0))]
        return as_dtype(self.functions.reshape(made, (*self.lead, *self.shape, *self.columns)), self.dtype)

    def pull_back(self, known: Mapping[str, Array], rows_bar: Array, bars: dict[str, Array]) -> None:
        """Add to the adjoints of what is known what comes from the rows."""
        if not self.tokens:
            return
        functions = self.functions
        bar = functions.reshape(as_dtype(rows_bar, self.computed), (*self.lead, self.tokens, *self.columns))
        cut = self.cut(known)
        sums = {name: functions.zeros_like(array) for name, array in cut.items()}
        for plan, part in self.slabs():
            adjoint, numbers = plan.tail_adjoint, self.numbers(part)
            given = {**known, **self.read(cut, numbers)}
            _, *residuals = run(adjoint.forward, given, functions)
            seed = plan.assembly.disassemble(bar[(*(slice(None),) * self.axis, part)], functions)
            given |= {**_named(adjoint.residuals, residuals), **_named(adjoint.seeds, [seed])}
            shares = _named(adjoint.reached, run(adjoint.backward, given, functions))
            for name, array in sums.items():
                share = functions.reshape(shares.pop(name), (*self.lead, -1, array.shape[-1]))
                sums[name] = pieces.add(array, numbers[name], share, self.axis)
            self.collect(bars, [Tensor(name, ()) for name in shares], list(shares.values()))
        joined = [one.join(sums[one.tensor.name], functions) for one in self.plan.selections]
        self.collect(bars, [one.source for one in self.plan.selections], joined)

    def collect(self, bars: dict[str, Array], tensors: Sequence[Tensor], shares: Sequence[Array]) -> None:
        """Add shares to adjoints, which are vectors."""
        for tensor, share in zip(tensors, shares, strict=True):
            bars[tensor.name] = bars[tensor.name] + self.functions.reshape(share, (-1,))
