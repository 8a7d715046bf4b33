"""The tangent of a weight, and the Gauss-Newton matrix of all of a generator's numbers, on any array library.

J is the Jacobian of the weight: a row for each of its numbers, a column for each number of the cores. It is made in
tiles of rows, multiplied with itself and dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import autoray
import numpy as np
from numpy.typing import NDArray

from adntn.arrays import Array, as_dtype, backend_of, can_be_written, check_alike, dtype_name, namespace_of, place
from adntn.network import SCALE, Network
from adntn.program.run import run
from adntn.program.tangent import dotted
from adntn.tiling import Plan, tangent_tiling

if TYPE_CHECKING:
    from adntn.generator import Generator

#: How many numbers of J are made at once, about: few enough to stay near the processor, enough to hide calls.
SLAB = 2**20
#: Tensors of at most so many numbers, with their directions, are made once and not for every tile.
WHOLE = 2**20


def weight_and_tangent(
    generator: Generator, cores: Mapping[str, Array], tangents: Mapping[str, Array]
) -> tuple[Array, Array]:
    """Return the weight and its derivative along a direction in the cores; see `Generator.jvp`."""
    generator.check(cores)
    _check_tangents(cores, tangents)
    dtype, cores = generator.prepared(cores)
    _, tangents = generator.prepared(tangents)
    functions = namespace_of(cores.values())
    given = {**cores, **{dotted(name): tangents[name] for name in cores}}
    state, derivative = run(generator.tangent.program, given, functions)
    assemble = generator.assembly.assemble
    return as_dtype(assemble(state, functions), dtype), as_dtype(assemble(derivative, functions), dtype)


def gauss_newton(generator: Generator, cores: Mapping[str, Array]) -> NDArray[Any]:
    """Return J^H J, where J is the Jacobian of the weight.

    >>> import adntn
    >>> generator = adntn.LowRank((32, 16), rank=2)
    >>> gauss_newton(generator, generator.init(dtype="float64")).shape == (generator.parameters,) * 2
    True

    Rows and columns are the numbers of the cores in the order of `generator.core_shapes`, each core row-major. For
    complex cores J is the complex derivative (activations are holomorphic); the pullback of `Generator.vjp` multiplies
    with its adjoint J^H.

    Args:
        generator: of the weight.
        cores: of any library; what is computed there is in their number type (float32 for 16 bits).

    Returns:
        A NumPy array of shape (parameters, parameters). Beside it exist a few of its size, and about `SLAB` numbers of
        J at a time with what they are made from, level by level; or a row of the weight for each number of the cores,
        if that is more.

    Raises:
        KeyError, ValueError, TypeError: if the cores are not this generator's.
    """
    generator.check(cores)
    _, cores = generator.prepared(cores)
    functions = namespace_of(cores.values())
    groups = _groups(generator.network)
    total = None
    for slab in _slabs(generator, cores, groups):
        share = functions.matmul(functions.conj(slab), functions.permute(slab, (0, 2, 1)))
        if total is not None and can_be_written(total):
            total += share
        else:
            total = share if total is None else total + share
    return _in_order(generator, groups, autoray.to_numpy(total))


def _groups(network: Network) -> list[tuple[str, ...]]:
    """Return the cores level by level: what stands before a level does not move with its cores, and is made once."""
    seen: set[str] = set()
    groups = []
    for level in network.levels:
        own = dict.fromkeys(node.core for node in level.nodes if node.core not in seen)
        seen.update(own)
        groups.append(tuple(own))
    groups[-1] = (*groups[-1], SCALE)
    return [group for group in groups if group]


def _sizes(network: Network, names: Iterable[str]) -> list[int]:
    """Return how many numbers each core has, in each weight of a batch."""
    return [math.prod(network.core_shapes[name]) // (network.batch or 1) for name in names]


def _slabs(generator: Generator, cores: Mapping[str, Array], groups: list[tuple[str, ...]]) -> Iterator[Array]:
    """Yield tiles of J, transposed: (batch, numbers of the cores in the order of the groups, numbers of the weight)."""
    network, functions = generator.network, namespace_of(cores.values())
    columns = math.prod(network.layout.shape[1:]) * generator.parameters
    plan = Plan(max(1, SLAB // columns), whole_size=WHOLE)
    each = []
    for group in groups:
        tiling = tangent_tiling(network, generator.paths, plan, group, sum(_sizes(network, group)))
        each.append(tiling.generate({**cores, **_units(generator, group, cores[SCALE])}))
    for parts in zip(*each, strict=True):
        slabs = [
            functions.reshape(tile, (network.batch or 1, sum(_sizes(network, group)), -1))
            for group, (_, tile) in zip(groups, parts, strict=True)
        ]
        yield slabs[0] if len(slabs) == 1 else functions.concatenate(slabs, 1)


def _units(generator: Generator, group: Sequence[str], like: Array) -> dict[str, Array]:
    """Return the tangents of a group's cores along all unit vectors, which lie behind the batch axis."""
    network = generator.network
    sizes = _sizes(network, group)
    lead = () if network.batch is None else (network.batch,)
    units = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
    made = {}
    for name, part in zip(group, units, strict=True):
        array = np.tile(part, (*lead, 1, 1)).reshape(-1)
        made[dotted(name)] = place(array, backend_of(like), dtype_name(like), getattr(like, "device", None))
    return made


def _in_order(generator: Generator, groups: list[tuple[str, ...]], blocks: NDArray[Any]) -> NDArray[Any]:
    """Return the matrix of all numbers, from one of each weight of the batch, in the order of the groups."""
    network = generator.network
    numbers, start = {}, 0
    for name, shape in network.core_shapes.items():
        size = math.prod(shape)
        numbers[name] = np.arange(start, start + size).reshape(len(blocks), -1)
        start += size
    places = np.concatenate([numbers[name] for group in groups for name in group], axis=1)
    matrix = np.zeros((start, start), blocks.dtype)
    for own, block in zip(places, blocks, strict=True):
        matrix[np.ix_(own, own)] = block
    return matrix


def _check_tangents(cores: Mapping[str, Array], tangents: Mapping[str, Array]) -> None:
    if not isinstance(tangents, Mapping):
        raise TypeError(f"tangents must be a mapping from names to arrays, got {type(tangents).__name__}")
    if cores.keys() != tangents.keys():
        name = sorted(cores.keys() ^ tangents.keys())[0]
        raise KeyError(f"cores and tangents must have the same names, but only one has {name!r}")
    for name, core in cores.items():
        shape = tuple(getattr(tangents[name], "shape", ("no array",)))
        if shape != tuple(core.shape):
            raise ValueError(f"the tangent of {name!r} must have the shape {tuple(core.shape)}, got {shape}")
    check_alike({"the cores": cores[SCALE], **tangents}, "cores and tangents")
