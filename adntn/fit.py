"""Cores for a given dense weight: a hierarchical SVD to start from where there is one, then L-BFGS or Gauss-Newton.

The weight may be an array of any library and stays where it is: only the cores, few as they are, and the matrix of
their second derivatives go to SciPy and back.

A trained weight is hardly compressible by a factor of thousands: expect relative errors near 1 there. What a fit is
good for is a start, or a weight that has structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import autoray
import numpy as np
from scipy.optimize import minimize

from adntn.arrays import (
    DTYPES,
    Array,
    as_dtype,
    backend_of,
    check_dtype,
    dtype_name,
    flatten,
    namespace,
    namespace_of,
    place,
    unflatten,
)
from adntn.generator import Generator
from adntn.levenberg_marquardt import minimised
from adntn.network import SCALE, Leg, Level, Network
from adntn.second_order import gauss_newton

#: How a fit searches.
Method = Literal["l-bfgs", "levenberg-marquardt"]
METHODS: tuple[str, ...] = get_args(Method)
#: Called after every iteration with its number (from 1) and the relative error there.
Progress = Callable[[int, float], None]
#: A relative error that is nothing but rounding.
ROUNDING = 10 * float(np.finfo(np.float64).eps)
#: The second derivatives of that many numbers are a matrix of 2 GiB.
MOST_NUMBERS = 2**14


@dataclass(frozen=True)
class Fit:
    """The result of a fit.

    Attributes:
        cores: the best cores found, of the weight's library, number type and device.
        error: relative Frobenius error |W - weight| / |weight| of these cores.
        history: the error at the start and after each iteration.
    """

    cores: dict[str, Array]
    error: float
    history: tuple[float, ...]


def fit(
    generator: Generator,
    weight: Array,
    *,
    cores: Mapping[str, Array] | None = None,
    seed: int = 0,
    iterations: int = 200,
    method: Method = "l-bfgs",
    progress: Progress | None = None,
) -> Fit:
    """Return cores whose weight is near the given one, by relative Frobenius error.

    >>> import numpy as np, adntn
    >>> weight = np.outer(np.arange(1.0, 9), np.arange(1.0, 9))
    >>> adntn.fit(adntn.LowRank((8, 8), rank=1), weight).error < 1e-6
    True

    Args:
        generator: what is to generate the weight.
        weight: an array of the generator's shape, of NumPy or any other library; the fit computes where it is, in
            double precision.
        cores: where to start; by default the hierarchical SVD for linear trees and chains (made on the host), else
            `generator.init(seed)` with the standard deviation of the weight.
        seed: of that start.
        iterations: at most; 0 returns the start.
        method: "l-bfgs", cheap steps along gradients, at each of which the scale is the best one (see `best_factor`);
            or "levenberg-marquardt", damped Gauss-Newton steps: each solves with a matrix of all numbers of the cores,
            which takes as long as many gradients, and far fewer are needed where the error can become small.
        progress: called after each iteration with its number, from 1, and the error.

    Raises:
        TypeError, ValueError: if the weight is no finite array of that shape, or all zero, or if its library has no
            double precision (JAX, unless that is enabled); or if there is no such method, or if the cores have too many
            numbers for it.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "levenberg-marquardt" and generator.parameters > MOST_NUMBERS:
        raise ValueError(
            f"method {method!r} solves for at most {MOST_NUMBERS:,} numbers at once, but the cores have"
            f' {generator.parameters:,}; "l-bfgs" takes any number'
        )
    target = _checked(generator, weight)
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"iterations must be an integer of at least 0, got {iterations!r}")
    if cores is None:
        start = _start(generator, target, seed)
    else:
        generator.check(cores)
        start = {name: autoray.to_numpy(cores[name]) for name in generator.core_shapes}
        if dtype_name(cores[SCALE]).startswith("complex") and not dtype_name(target).startswith("complex"):
            raise TypeError("cores to start from must be real for a real weight, got complex ones")
    host = _Host(generator, target)
    norm = _norm(target)

    def loss(vector: Array) -> tuple[float, Array]:
        generated, pullback = generator.vjp(host.cores(vector))
        difference = (generated - target) / norm
        return _norm(difference) ** 2, host.vector(pullback(2.0 / norm * difference))

    def projected(vector: Array) -> tuple[float, Array]:
        generated, pullback = generator.vjp(host.cores(vector))
        factor = best_factor(generator, generated, target)
        difference = (factor * generated - target) / norm
        weight_bar = 2.0 / norm * namespace_of([factor]).conj(factor) * difference
        return _norm(difference) ** 2, host.vector(pullback(weight_bar))

    def curvature(vector: Array) -> Array:
        return 2.0 / norm**2 * gauss_newton(generator, host.cores(vector))

    first = host.vector({name: start[name].astype(host.dtype) for name in generator.core_shapes})
    searched = projected if method == "l-bfgs" and iterations else loss
    history = [math.sqrt(searched(first)[0])]

    def report(squared_error: float) -> None:
        history.append(math.sqrt(squared_error))
        if progress is not None:
            progress(len(history) - 1, history[-1])

    if iterations == 0:
        best = first
    elif method == "l-bfgs":
        best = _lbfgs(projected, first, iterations, report)
    else:
        best = minimised(loss, curvature, first, iterations=iterations, enough=ROUNDING**2, report=report)
    there = host.cores(best)
    if searched is projected:
        there = scaled_best(generator, there, target)
    found = {name: as_dtype(core, dtype_name(weight)) for name, core in there.items()}
    error = _norm(as_dtype(generator.weight(found), host.dtype) - target) / norm
    return Fit(found, error, tuple(history))


def best_factor(generator: Generator, generated: Array, weight: Array) -> Array:
    """Return the number by which a generated weight, or each one of a batch, comes closest to another.

    A weight is linear in its scale, so that a search need not look for it: at any other cores the best one is known.
    Where the gradient of the other cores is taken at this scale, a search cannot end at a weight of zero, which is
    better than a random start and next to which all gradients vanish.

    Args:
        generator: whose weight it is.
        generated, weight: two arrays of one library, of the generator's shape.

    Returns:
        An array that multiplies the weight: of as many axes, all 1 but that of a batch; 1 where the weight is zero.

    Source: variable projection: G. Golub, V. Pereyra, SIAM J. Numer. Anal. 10, 413 (1973).
    """
    functions = namespace_of([generated])
    count = generator.network.batch or 1
    rows, wanted = (functions.reshape(one, (count, -1)) for one in (generated, weight))
    overlap, square = (functions.sum(functions.conj(rows) * other, 1) for other in (wanted, rows))
    one = functions.zeros_like(square) + 1
    is_zero = square == 0
    factor = functions.where(is_zero, one, overlap / functions.where(is_zero, one, square))
    return functions.reshape(factor, (count, *(1 for _ in generator.shape[1:])))


def scaled_best(generator: Generator, cores: Mapping[str, Array], weight: Array) -> dict[str, Array]:
    """Return cores with the scale at which their weight comes closest to another."""
    scale, factor = cores[SCALE], best_factor(generator, generator.weight(cores), weight)
    reshape = namespace_of([scale]).reshape
    # a product of arrays without axes is no array in NumPy
    return {**cores, SCALE: reshape(reshape(scale, (-1,)) * reshape(factor, (-1,)), tuple(scale.shape))}


def _lbfgs(
    loss: Callable[[Array], tuple[float, Array]], start: Array, iterations: int, report: Callable[[float], None]
) -> Array:
    """Return the best numbers that SciPy's L-BFGS finds, of which complex ones are pairs of real ones."""

    def real(vector: Array) -> tuple[float, Array]:
        value, gradient = loss(vector.view(start.dtype))
        return value, gradient.view(np.float64)

    result = minimize(
        real,
        start.view(np.float64),
        jac=True,
        method="L-BFGS-B",
        callback=lambda intermediate_result: report(intermediate_result.fun),
        options={"maxiter": iterations, "maxcor": 20, "ftol": 0.0, "gtol": 1e-12, "maxfun": 20 * iterations},
    )
    return result.x.view(start.dtype) if result.fun < loss(start)[0] else start


def hierarchical_svd(generator: Generator, weight: Array) -> dict[str, Array]:
    """Return the cores of a linear tree, or of a chain (tensor train, low rank), from truncated SVDs, leaves first.

    With U the leading singular vectors of a group of legs, the isometry is U and the state becomes U^H times the state.
    The squared error is at most the sum, over all isometries, of the squares of the discarded singular values of the
    weight itself: within sqrt(number of isometries) of the best tree of the same bonds. Disentanglers are left at the
    identity.

    Raises:
        TypeError, ValueError: if the weight is no finite NumPy array of the generator's shape, or the generator is no
            linear tree or chain without shared cores.

    Source: L. Grasedyck, SIAM J. Matrix Anal. Appl. 31, 2029 (2010); for chains, I. Oseledets, SIAM J. Sci. Comput. 33,
    2295 (2011).
    """
    if backend_of(weight) != "numpy":
        raise TypeError(f"weight must be a NumPy array, got {type(weight).__name__}")
    target = _checked(generator, weight)
    network = generator.network
    if (reason := _why_no_tree(network)) is not None:
        raise ValueError(f"the hierarchical SVD needs a linear tree, but {reason}")
    functions = namespace("numpy", np.iscomplexobj(target))
    assembly = network.layout.assembly(range(len(network.layout.leg_sizes)), None)
    weights = target[None] if network.batch is None else target
    decompose = _chain_cores if _is_chain(network) else _tree_cores
    each = [decompose(network, assembly.disassemble(one, functions).reshape(-1)) for one in weights]
    if network.batch is None:
        return each[0]
    return {name: np.stack([one[name] for one in each]) for name in each[0]}


def _checked(generator: Generator, weight: Array) -> Array:
    """Return the weight in double precision."""
    if not hasattr(weight, "shape") or not hasattr(weight, "dtype"):
        raise TypeError(f"weight must be a NumPy array, or one of another library, got {type(weight).__name__}")
    if tuple(weight.shape) != generator.shape:
        raise ValueError(f"weight must have the generator's shape {generator.shape}, got {tuple(weight.shape)}")
    dtype = dtype_name(weight)
    if dtype not in DTYPES:
        raise TypeError(f"weight must hold floating-point numbers ({', '.join(DTYPES)}), got {dtype}")
    wide = "complex128" if dtype.startswith("complex") else "float64"
    target = as_dtype(weight, wide)
    check_dtype(target, wide)
    if not bool(autoray.do("all", autoray.do("isfinite", target))):
        values = autoray.to_numpy(target)
        where = tuple(int(index) for index in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"weight must be finite, got {values[where]} at {where}")
    if _norm(target) == 0:
        raise ValueError("weight must not be all zero: its relative error is undefined")
    return target


def _norm(array: Array) -> float:
    """Return the Frobenius norm, the one number that is read from the device."""
    functions = namespace_of([array])
    flat = functions.reshape(array, (-1,))
    return math.sqrt(float(autoray.to_numpy(functions.sum(flat * functions.conj(flat), 0)).real))


def _start(generator: Generator, target: Array, seed: int) -> dict[str, Array]:
    """Return NumPy cores to start from."""
    if _why_no_tree(generator.network) is None:
        return hierarchical_svd(generator, autoray.to_numpy(target))
    count = math.prod(generator.shape)
    functions = namespace_of([target])
    mean = functions.sum(functions.reshape(target, (-1,)), 0) / count
    deviation = _norm(target - mean) / math.sqrt(count) or _norm(target) / math.sqrt(count)
    return generator.init(seed, dtype=dtype_name(target), std=deviation)


def _why_no_tree(network: Network) -> str | None:
    """Return why a network is no linear tree or chain, or None (disentanglers, at the identity, do not matter)."""
    first, *others = network.levels
    if any(not level.activation.is_identity for level in network.levels):
        return "it has activations"
    if _is_chain(network):
        return None
    if len(first.nodes) != 1:
        return "its first level has more than one core"
    for level in others:
        names = [node.core for node in level.nodes if network.core[node.core].start == "isometry"]
        if any(network.core[name].inputs != (0,) for name in names):
            return "a core has not one input leg, its first"
        if len(set(names)) < len(names):
            return "its cores are shared"
    return None


def _is_chain(network: Network) -> bool:
    """Return whether a network is one level of different cores, each joined to the next by one leg, in order."""
    if len(network.levels) > 1 or len({node.core for node in network.levels[0].nodes}) < len(network.levels[0].nodes):
        return False
    (level,) = network.levels
    inner: list[tuple[Leg, ...]] = [()]
    for node, after in pairwise(level.nodes):
        inner.append(tuple(leg for leg in node.legs if leg in after.legs))
    inner.append(())
    own = [tuple(leg for leg in node.legs if leg in level.output) for node in level.nodes]
    in_order = all(
        node.legs == (*before, *legs, *after) and len(before) < 2
        for node, before, legs, after in zip(level.nodes, inner[:-1], own, inner[1:], strict=True)
    )
    return in_order and tuple(leg for legs in own for leg in legs) == level.output


def _chain_cores(network: Network, flat: Array) -> dict[str, Array]:
    """Split one core after another off a weight, from the first to the last."""
    (level,) = network.levels
    cores: dict[str, Array] = {SCALE: np.ones((), flat.dtype)}
    for node in level.nodes[:-1]:
        shape = network.core[node.core].shape
        bond = shape[-1]
        left, values, right = np.linalg.svd(flat.reshape(math.prod(shape[:-1]), -1), full_matrices=False)
        kept = min(bond, len(values))
        cores[node.core] = np.zeros(shape, flat.dtype)
        cores[node.core].reshape(-1, bond)[:, :kept] = left[:, :kept]
        flat = np.zeros((bond, right.shape[1]), flat.dtype)
        flat[:kept] = values[:kept, None] * right[:kept]
    last = level.nodes[-1].core
    cores[last] = flat.reshape(network.core[last].shape)
    return cores


def _tree_cores(network: Network, flat: Array) -> dict[str, Array]:
    mixers = [core for core in network.cores if core.start == "identity"]
    cores = {core.name: np.eye(math.isqrt(core.size)).reshape(core.shape) for core in mixers}
    for level in reversed(network.levels[1:]):
        flat = _contract_level(network, level, flat, cores)
    (top,) = network.levels[0].nodes
    cores[top.core] = flat.reshape(network.core[top.core].shape)
    cores[SCALE] = np.ones(())
    return {name: core.astype(flat.dtype) for name, core in cores.items()}


def _contract_level(network: Network, level: Level, flat: Array, cores: dict[str, Array]) -> Array:
    """Find the isometries of one level from its first leg to its last, and return the state above them."""
    done = 1
    for node in level.nodes:
        core = network.core[node.core]
        if core.start == "identity":
            continue
        bond, *children = core.shape
        size = math.prod(children)
        tensor = flat.reshape(done, size, -1)
        matrix = tensor.transpose(1, 0, 2).reshape(size, -1)
        vectors = _leading_vectors(matrix, bond)
        cores[core.name] = vectors.T.reshape(core.shape)
        flat = np.matmul(vectors.conj().T, tensor).reshape(-1)
        done *= bond
    return flat


def _leading_vectors(matrix: Array, count: int) -> Array:
    """Return the leading left singular vectors, through a QR of the long side: accurate, and cheap for few rows."""
    rows, columns = matrix.shape
    triangle: Array = np.asarray(np.linalg.qr(matrix.T, mode="r")) if columns > rows else matrix.T
    return np.linalg.svd(triangle.T, full_matrices=True)[0][:, :count]


class _Host:
    """Cores as one NumPy vector for SciPy, and back to where the weight is."""

    def __init__(self, generator: Generator, target: Array) -> None:
        self.shapes, self.dtype = generator.core_shapes, dtype_name(target)
        self.backend, self.device = backend_of(target), getattr(target, "device", None)

    def vector(self, cores: Mapping[str, Array]) -> Array:
        return autoray.to_numpy(flatten({name: cores[name] for name in self.shapes}))

    def cores(self, vector: Array) -> dict[str, Array]:
        return unflatten(place(np.ascontiguousarray(vector), self.backend, self.dtype, self.device), self.shapes)
