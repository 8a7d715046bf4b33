"""Cores to start from: isometric, drawn by NumPy from one seed, and calibrated level by level.

Every core has a random stream of its own, named by the seed and the core: a MERA and the TTN inside it draw the same
isometries, and because its disentanglers begin at the identity it starts as that TTN. Calibration measures the RMS of
each pre-activation Z[l] once and rescales the level to 1, so that activations neither vanish nor saturate, and chooses
the scale s so that the weight has the wanted standard deviation (mathematics, section 5).
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adntn.activations import IDENTITY, Activation
from adntn.arrays import namespace
from adntn.machine import machine
from adntn.network import SCALE, Core, Level, Network
from adntn.program.forecast import best_plan
from adntn.program.ir import Program, Tensor
from adntn.program.lower import lower_levels
from adntn.program.run import run
from adntn.tiling import tiling

Array = NDArray[Any]  # of real or complex numbers in double precision
Cores = dict[str, Array]

#: Weights of more numbers are measured tile by tile.
WHOLE = 2**24
#: The smallest and the largest positive number of a type.
RANGES = {
    "float16": (2.0**-24, 2.0**16 - 2.0**5),
    "bfloat16": (2.0**-133, 2.0**128 - 2.0**120),
    "float32": (2.0**-149, 2.0**128 - 2.0**104),
    "complex64": (2.0**-149, 2.0**128 - 2.0**104),
}


def initial_cores(network: Network, seed: int, deviation: float, *, complex_cores: bool = False) -> Cores:
    """Return calibrated cores as NumPy arrays in double precision.

    Args:
        network: what to start.
        seed: the same seed gives the same cores, always.
        deviation: the wanted standard deviation of the weight, over all its elements (for each weight of a batch).
        complex_cores: whether to draw complex numbers; the deviation is then that of the complex number.
    """
    cores = {core.name: _drawn(core, network.batch, seed, complex_cores) for core in network.cores}
    return _calibrated(network, cores, deviation)


def check_scale(scale: Array, dtype: str, deviation: float) -> None:
    """Check that a number type holds the scale of a weight: else the weight would be zero, or infinite, for ever.

    Raises:
        ValueError: if it does not.
    """
    least, most = RANGES.get(dtype, (0.0, math.inf))
    if wrong := [size for size in np.abs(scale).ravel() if not least <= size <= most]:
        raise ValueError(
            f"std must be possible in {dtype}, whose numbers are from {least:.1e} to {most:.1e}, got {deviation:.1e},"
            f" for which the scale is {wrong[0]:.1e}"
        )


def _drawn(core: Core, batch: int | None, seed: int, complex_cores: bool) -> Array:
    random = np.random.default_rng([seed, zlib.crc32(core.name.encode())])
    count = 1 if batch is None else batch
    outputs = tuple(axis for axis in range(len(core.shape)) if axis not in core.inputs)
    rows = math.prod(core.shape[axis] for axis in outputs)
    columns = math.prod(core.shape[axis] for axis in core.inputs)
    if core.start == "identity":
        matrix = np.broadcast_to(np.eye(rows, columns), (count, rows, columns))
    else:
        matrix = _isometry(random, count, rows, columns, complex_cores)
    array = matrix.reshape(count, *(core.shape[axis] for axis in (*outputs, *core.inputs)))
    back = np.argsort((*outputs, *core.inputs))
    array = np.ascontiguousarray(array.transpose(0, *(axis + 1 for axis in back)))
    array = array.astype(np.complex128 if complex_cores else np.float64)
    return array if batch is not None else array[0]


def _isometry(random: np.random.Generator, count: int, rows: int, columns: int, complex_cores: bool) -> Array:
    """Return random matrices with orthonormal columns, or rows if there are fewer of them; uniformly distributed."""
    tall, wide = max(rows, columns), min(rows, columns)
    gaussian = random.standard_normal((count, tall, wide))
    if complex_cores:
        gaussian = gaussian + 1j * random.standard_normal((count, tall, wide))
    orthonormal, triangle = np.linalg.qr(gaussian)
    diagonal = np.diagonal(triangle, axis1=-2, axis2=-1)
    factor: Array = orthonormal * (diagonal / np.abs(diagonal))[:, None, :]
    return factor if rows >= columns else factor.swapaxes(-1, -2)


def _calibrated(network: Network, cores: Cores, deviation: float) -> Cores:
    """Rescale the levels one after another while the state is computed once."""
    functions = namespace("numpy", any(np.iscomplexobj(core) for core in cores.values()))
    uses = Counter(node.core for level in network.levels for node in level.nodes)
    cores = dict(cores)
    state: Array | None = None
    before: Tensor | None = None
    lowered_levels = lower_levels(network)
    in_tiles = network.layout.size * (network.batch or 1) > WHOLE and len(network.levels) > 1
    for level, lowered in zip(network.levels, lowered_levels, strict=True):
        if in_tiles and level is network.levels[-1]:
            return _calibrated_in_tiles(network, cores, _rescalable(network, level, uses), deviation)
        arrays = cores if before is None or state is None else {**cores, before.name: state}
        (block,) = run(Program((), lowered.contractions, (lowered.block,)), arrays, functions)
        rms = _root_mean_square(block, network.batch)
        names = _rescalable(network, level, uses)
        if _is_rescaled(cores, names, uses, rms, network.batch):
            block = block.reshape(len(rms), -1) / rms[:, np.newaxis]  # blocks come in any shape, the batch in front
        state = block if level.activation.is_identity else level.activation.function(functions, block)
        sign = _turned(cores, names, uses, ~np.any(state.reshape(len(rms), -1), axis=1), network.batch)
        if sign is not None:
            state = level.activation.function(functions, block.reshape(len(rms), -1) * sign[:, np.newaxis])
        before = lowered.state
    if state is None or before is None:
        raise ValueError("the network has no level")
    lead = 0 if network.batch is None else 1
    axes = [network.levels[-1].output.index(leg) for leg in before.legs[lead:]]
    weight = network.layout.assembly(axes, network.batch).assemble(state, functions)
    cores[SCALE] = np.asarray(_scale(weight, network.batch, deviation), dtype=state.dtype)
    return cores


def _calibrated_in_tiles(network: Network, cores: Cores, names: list[str], deviation: float) -> Cores:
    """Rescale the last level of a large weight, which is measured tile by tile and never exists as a whole."""
    last = network.levels[-1]
    linear = replace(network, levels=(*network.levels[:-1], replace(last, activation=IDENTITY)))
    functions = namespace("numpy", any(np.iscomplexobj(core) for core in cores.values()))
    count = 1 if network.batch is None else network.batch
    dtype = np.result_type(*cores.values())
    given = {**cores, SCALE: _along_batch(np.ones(count, dtype), network.batch, 1)}
    plan = best_plan(linear, (), machine("numpy", str(dtype)), dtype.itemsize)

    def measured(change: Callable[[Array], Array]) -> tuple[Array, Array]:
        """Return mean and RMS of all numbers, for each weight of the batch."""
        total, squares = np.zeros(count, dtype), np.zeros(count)
        for _, tile in tiling(linear, (), plan).generate(given):
            numbers = change(tile.reshape(count, -1))
            total += np.sum(numbers, axis=1)
            squares += np.sum(np.abs(numbers) ** 2, axis=1)
        return total / network.layout.size, (squares / network.layout.size) ** 0.5

    mean, rms = measured(lambda tile: tile)
    cores = dict(cores)
    uses = Counter(node.core for node in last.nodes)
    divisor = rms if _is_rescaled(cores, names, uses, rms, network.batch) else np.ones(count)
    mean, rms = mean / divisor, rms / divisor
    if not last.activation.is_identity:
        mean, rms = measured(lambda tile: last.activation.function(functions, tile / divisor[:, np.newaxis]))
        sign = _turned(cores, names, uses, rms == 0, network.batch)
        if sign is not None:
            turned = (sign / divisor)[:, np.newaxis]
            mean, rms = measured(lambda tile: last.activation.function(functions, tile * turned))
    spread = np.sqrt(np.maximum(rms**2 - np.abs(mean) ** 2, 0.0))
    cores[SCALE] = np.asarray(_quotient(deviation, spread, rms, network.batch), dtype=dtype)
    return cores


def _is_rescaled(cores: Cores, names: list[str], uses: Counter[str], rms: Array, batch: int | None) -> bool:
    """Divide a level by its RMS, in equal shares of its cores; return whether that could be done."""
    if not (names and np.all(rms > 0) and np.all(np.isfinite(rms))):
        return False
    share = rms ** (-1.0 / sum(uses[name] for name in names))
    for name in names:
        cores[name] = cores[name] * _along_batch(share, batch, cores[name].ndim)
    return True


def _turned(cores: Cores, names: list[str], uses: Counter[str], dead: Array, batch: int | None) -> Array | None:
    """Turn the sign of one core where a state is dead: a relu met nothing but negative numbers.

    Return the sign for each weight of the batch; None where nothing is dead, or nothing can be turned.
    """
    odd = [name for name in names if uses[name] % 2]
    if not (odd and np.any(dead)):
        return None
    sign = np.where(dead, -1.0, 1.0)
    cores[odd[0]] = cores[odd[0]] * _along_batch(sign, batch, cores[odd[0]].ndim)
    return sign


def _rescalable(network: Network, level: Level, uses: Counter[str]) -> list[str]:
    """Return the level's cores that no other level shares; disentanglers keep their identity."""
    here = Counter(node.core for node in level.nodes)
    return [name for name in here if here[name] == uses[name] and network.core[name].start == "isometry"]


def _root_mean_square(array: Array, batch: int | None) -> Array:
    rows = array.reshape(1 if batch is None else batch, -1)
    mean_square: Array = np.mean(np.abs(rows) ** 2, axis=1)
    return mean_square**0.5


def _along_batch(numbers: Array, batch: int | None, rank: int) -> Array:
    """Shape one number for each weight of the batch so that it multiplies an array of that rank."""
    return numbers.reshape(()) if batch is None else numbers.reshape(-1, *(1,) * (rank - 1))


def _scale(weight: Array, batch: int | None, deviation: float) -> Array:
    """Return s; a weight that is constant (its deviation is nothing but rounding) is scaled by its RMS instead."""
    rows = weight.reshape(1 if batch is None else batch, -1)
    return _quotient(deviation, np.std(rows, axis=1), _root_mean_square(weight, batch), batch)


def _quotient(deviation: float, spread: Array, rms: Array, batch: int | None) -> Array:
    measured = np.where(spread > 1e-6 * rms, spread, rms)
    scale: Array = deviation / np.where(measured > 0, measured, 1.0)
    return scale if batch is not None else scale.reshape(())


def core_at_zero(network: Network) -> str:
    """Return the core to set to zero so that the weight is zero, and yet not its gradient: the start of an adapter.

    >>> import adntn
    >>> core_at_zero(adntn.LowRank((64, 32), rank=4).network)
    'left'

    A core of the last level, which is multiplied last, so that the levels before keep their calibrated states; one that
    stands in the network once, because the gradient of a product of k equal factors vanishes with them; of these the
    largest that carries rows of the weight (of a low rank, `left`: LoRA's B). Where the last activation does not pass
    through zero with a slope (relu, sigmoid, softplus), or the last level's cores are all shared, it is the scale.
    """
    last = network.levels[-1]
    uses = Counter(node.core for level in network.levels for node in level.nodes)
    rows = {leg for leg, (dimension, _) in zip(last.output, network.layout.order, strict=True) if dimension == 0}
    once = [node for node in last.nodes if uses[node.core] == 1]
    if not once or not _passes_zero_with_a_slope(last.activation):
        return SCALE
    best = max(
        once,
        key=lambda node: (
            network.core[node.core].start == "isometry",
            not rows.isdisjoint(node.legs),
            network.core[node.core].size,
        ),
    )
    return best.core


def _passes_zero_with_a_slope(activation: Activation) -> bool:
    functions, zero = namespace("numpy", False), np.zeros(1)
    return not np.any(activation.function(functions, zero)) and bool(np.any(activation.derivative(functions, zero)))
