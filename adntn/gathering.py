"""Rows of a weight on arrays, for tokens of which each names one, and the adjoint of that.

Many tokens come in slabs, so that nothing made for them is large; what the cores make alone is made once. The adjoint
makes each slab's results again, instead of keeping those of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import autoray

from adntn import pieces
from adntn.arrays import SHORT_DTYPES, Array, as_dtype, check_alike, dtype_name, namespace_of, zeros_in_rows
from adntn.network import SCALE, Network
from adntn.program.contract import LARGEST
from adntn.program.gather import Lookup, lookup, slab_tokens
from adntn.program.ir import Tensor
from adntn.program.path import Paths
from adntn.program.run import run

if TYPE_CHECKING:
    from adntn.generator import Generator

#: From dL/d(rows) to dL/d(core) by name.
Pullback = Callable[[Array], dict[str, Array]]


def rows(generator: Generator, cores: Mapping[str, Array], indices: Array) -> Array:
    """Return rows of the weight; see `Generator.rows`."""
    generator.check(cores)
    check_indices(indices, cores, generator.network.layout.shape[0])
    return gathered(generator, cores, indices)


def rows_vjp(generator: Generator, cores: Mapping[str, Array], indices: Array) -> tuple[Array, Pullback]:
    """Return rows of the weight and their pullback; see `Generator.rows_vjp`."""
    generator.check(cores)
    check_indices(indices, cores, generator.network.layout.shape[0])
    made, pull = gathered_vjp(generator, cores, indices)

    def pullback(rows_bar: Array) -> dict[str, Array]:
        if not hasattr(rows_bar, "shape") or tuple(rows_bar.shape) != tuple(made.shape):
            got = getattr(rows_bar, "shape", rows_bar)
            raise ValueError(f"rows_bar must have the shape of the rows, {tuple(made.shape)}, got {got!r}")
        check_alike({"rows_bar": rows_bar, "the cores": cores[SCALE]}, "rows_bar and the cores")
        return pull(rows_bar)

    return made, pullback


def check_indices(indices: Array, cores: Mapping[str, Array], count: int) -> None:
    """Check that indices are numbers of rows; while a compiler traces, their values cannot be seen.

    Raises:
        TypeError: if they are no integers, or of another library or device than the cores.
        IndexError: if one is negative, or not below `count`.
    """
    if not hasattr(indices, "shape") or not dtype_name(indices).startswith(("int", "uint")):
        got = getattr(indices, "dtype", type(indices).__name__)
        raise TypeError(f"indices must be an array of integers, got {got}")
    check_alike({"the cores": cores[SCALE], "indices": indices}, "cores and indices", ("library", "device"))
    beyond = autoray.do("any", (indices < 0) | (indices >= count))
    try:
        wrong = bool(beyond)
    except TypeError:  # what JAX says of numbers that it does not have yet
        return
    if wrong:
        raise IndexError(f"indices must be from 0 to {count - 1}, the last row of the weight")


@dataclass(frozen=True)
class Slabs:
    """How so many tokens are looked up: some at a time.

    Attributes:
        plan: the programs of the first slab; all have the same head.
        parts: for each slab its programs, its first token and the first one after it.
    """

    plan: Lookup
    parts: tuple[tuple[Lookup, int, int], ...]


@lru_cache(maxsize=1024)
def slabs_of(network: Network, tokens: int, paths: Paths = (), largest: int = LARGEST) -> Slabs:
    """Return how so many tokens are looked up; if there are none, the programs for one."""
    count = max(tokens, 1)
    slab = slab_tokens(network, count, largest, paths)
    stops = [min(start + slab, count) for start in range(0, count, slab)]
    bounds = zip([0, *stops[:-1]], stops, strict=True)
    parts = tuple((lookup(network, stop - start, paths, slab), start, stop) for start, stop in bounds)
    return Slabs(parts[0][0], parts)


def gathered(generator: Generator, cores: Mapping[str, Array], indices: Array, slabs: Slabs | None = None) -> Array:
    """Return rows of the weight; what `Generator.rows` checks is not checked again.

    >>> import adntn, numpy
    >>> generator = adntn.TTN((30522, 384), bond=4)
    >>> gathered(generator, generator.init(), numpy.array([[101, 7592], [2088, 102]])).shape
    (2, 2, 384)

    Args:
        generator: of the weight.
        cores: its cores.
        indices: numbers of rows, integers of any shape; those of rows that there are not give no error.
        slabs: how so many tokens are looked up; compilers cannot trace how that is found.
    """
    call = _Call(generator, cores, indices, slabs)
    known = call.known(run(call.plan.head, call.cores, call.functions))
    return call.rows(known)


def gathered_vjp(
    generator: Generator, cores: Mapping[str, Array], indices: Array, slabs: Slabs | None = None
) -> tuple[Array, Pullback]:
    """Return rows of the weight and their pullback, which takes dL/d(rows) to dL/d(core) for every core.

    Gradients of complex cores are with respect to the conjugate. Arguments are those of `gathered`.
    """
    call = _Call(generator, cores, indices, slabs)
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

    def __init__(self, generator: Generator, cores: Mapping[str, Array], indices: Array, slabs: Slabs | None) -> None:
        self.network = generator.network
        self.functions = namespace_of(cores.values())
        self.dtype = dtype_name(cores[SCALE])
        self.computed = "float32" if self.dtype in SHORT_DTYPES else self.dtype
        self.cores = {name: as_dtype(core, self.computed) for name, core in cores.items()}
        self.lead = () if self.network.batch is None else (self.network.batch,)
        self.shape, self.columns = tuple(indices.shape), self.network.layout.shape[1:]
        self.tokens = math.prod(self.shape)
        self.indices = self.functions.reshape(indices, (-1,)) if self.tokens else None
        self.slabs = slabs_of(self.network, self.tokens, generator.paths) if slabs is None else slabs
        self.plan = self.slabs.plan

    @property
    def axis(self) -> int:
        """The axis of tokens."""
        return len(self.lead)

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
            name: array[(*axes, slice(0, 1), ...)]
            if numbers[name] is None
            else pieces.take(array, numbers[name], self.axis)
            for name, array in cut.items()
        }

    def numbers(self, part: slice) -> dict[str, Any]:
        """Return, for all that tokens read pieces of, their numbers; None where there is no token."""
        indices = None if self.indices is None else self.indices[part]
        return {one.tensor.name: None if indices is None else one.numbers(indices) for one in self.plan.selections}

    def rows(self, known: Mapping[str, Array]) -> Array:
        """Return the rows of all tokens, of the cores' number type."""
        cut, parts = self.cut(known), []
        for plan, start, stop in self.slabs.parts:
            given = {**known, **self.read(cut, self.numbers(slice(start, stop)))}
            (state,) = run(plan.tail, given, self.functions)
            parts.append(plan.assembly.assemble(state, self.functions))
        made = parts[0] if len(parts) == 1 else self.functions.concatenate(parts, self.axis)
        if not self.tokens:
            made = made[(*(slice(None),) * self.axis, slice(0, 0), ...)]
        return as_dtype(self.functions.reshape(made, (*self.lead, *self.shape, *self.columns)), self.dtype)

    def pull_back(self, known: Mapping[str, Array], rows_bar: Array, bars: dict[str, Array]) -> None:
        """Add to the adjoints of what is known what comes from the rows."""
        if not self.tokens:
            return
        functions = self.functions
        bar = functions.reshape(as_dtype(rows_bar, self.computed), (*self.lead, self.tokens, *self.columns))
        cut = self.cut(known)
        sums = {name: zeros_in_rows(array) for name, array in cut.items()}
        for plan, start, stop in self.slabs.parts:
            adjoint, numbers = plan.tail_adjoint, self.numbers(slice(start, stop))
            given = {**known, **self.read(cut, numbers)}
            _, *residuals = run(adjoint.forward, given, functions)
            seed = plan.assembly.disassemble(bar[(*(slice(None),) * self.axis, slice(start, stop), ...)], functions)
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
