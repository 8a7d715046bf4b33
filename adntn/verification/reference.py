"""The reference: weight by definition and gradients by the adjoint, in double precision on NumPy; and what checks it.

The weight is contracted once more here, level by level from the network's own legs by opt_einsum, without the programs
that everybody else runs. The gradients are those of NumPy's adjoint; finite differences and complex steps of the
weight by definition are the independent opinion on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import opt_einsum
from numpy.typing import NDArray

from adntn.arrays import namespace
from adntn.generator import Generator
from adntn.network import SCALE, Network
from adntn.verification.tolerance import WELL_CONDITIONED, depth, tolerance

Array = NDArray[Any]  # of real or complex numbers in double precision
Cores = dict[str, Array]

#: How many starts are tried for one that is well conditioned.
STARTS = 16
#: The relative change of cores and dL/dW by which the condition is measured: above single precision's rounding.
NUDGE = 2.0**-20
#: Of so many random ones the worst counts: a single one may by chance leave a number, such as dL/dscale, as it was.
NUDGES = 3


@dataclass(frozen=True)
class Reference:
    """Where a generator is verified, and the right answer there.

    Attributes:
        cores: they have 8 significant bits, exact in every number type: what differs later is computation alone.
        weight_bar: dL/dW, random, as exact.
        weight: by definition.
        gradients: of every core, by NumPy's adjoint.
        sizes: what the error of each gradient is relative to: its norm. A gradient that vanishes (by a symmetry, or
            behind a dead relu) is pure rounding in every library, and is measured by its natural size, which is
            |W_bar| |W| / |core|.
        condition: how many times larger a small relative change of cores and dL/dW is in the weight or a gradient.
    """

    cores: Cores
    weight_bar: Array
    weight: Array
    gradients: Cores
    sizes: Mapping[str, float]
    condition: float


def reference(generator: Generator, *, is_complex: bool, seed: int = 0) -> Reference:
    """Return the reference at the first start, counted from the seed, that is well conditioned; else at the best.

    Elsewhere rounding is amplified, in every library: next to a pole of a complex tanh, where a number stands at the
    kink of a relu, or where a gradient nearly cancels.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # a start that overflows has no condition and is passed over
        best = _reference_at(generator, seed, is_complex)
        for start in range(seed + 1, seed + STARTS):
            if best.condition <= WELL_CONDITIONED:
                break
            best = min(best, _reference_at(generator, start, is_complex), key=lambda made: made.condition)
    return best


def _reference_at(generator: Generator, seed: int, is_complex: bool) -> Reference:
    dtype = "complex128" if is_complex else "float64"
    random = np.random.default_rng(seed)
    start = generator.init(seed, dtype=dtype, std=1.0)
    # away from the start: there, disentanglers are the identity and their neighbours isometries
    cores = {name: _short(core + 0.2 * _normal(random, core.shape, dtype)) for name, core in start.items()}
    return reference_of(generator, cores, _short(_normal(random, generator.shape, dtype)), seed=seed)


def reference_of(generator: Generator, cores: Cores, weight_bar: Array, *, seed: int = 0) -> Reference:
    """Return the reference at cores of one's own.

    Args:
        generator: what is verified.
        cores: in double precision, exact in the number type that is to be verified.
        weight_bar: dL/dW, as exact.
        seed: of the small changes by which the condition is measured.
    """
    dtype = "complex128" if np.iscomplexobj(weight_bar) else "float64"
    weight = definition(generator)(cores)
    gradients = generator.vjp(cores)[1](weight_bar)
    sizes: dict[str, float] = {}
    for name, core in cores.items():
        norm = float(np.linalg.norm(gradients[name]))
        natural = float(np.linalg.norm(weight_bar) * np.linalg.norm(weight) / (np.linalg.norm(core) or 1.0))
        vanishes = norm <= tolerance(dtype, depth(generator)) * natural
        sizes[name] = (natural or 1.0) if vanishes else norm
    made = Reference(cores, weight_bar, weight, gradients, sizes, np.inf)
    return replace(made, condition=_condition(generator, made, seed))


def _condition(generator: Generator, made: Reference, seed: int) -> float:
    """Return how much of a small relative change of cores and dL/dW arrives; infinite where a result is no number."""
    random = np.random.default_rng(seed)

    def nudged(array: Array) -> Array:
        return np.asarray(array * (1 + NUDGE * random.standard_normal(array.shape)))

    size = float(np.linalg.norm(made.weight)) or 1.0
    changes: list[float] = []
    for _ in range(NUDGES):
        weight, pullback = generator.vjp({name: nudged(core) for name, core in made.cores.items()})
        changes.append(float(np.linalg.norm(weight - made.weight)) / size)
        for name, gradient in pullback(nudged(made.weight_bar)).items():
            changes.append(float(np.linalg.norm(gradient - made.gradients[name])) / made.sizes[name])
    worst = float(np.max(changes)) / NUDGE  # NaN stays NaN
    return worst if np.isfinite(worst) else np.inf


def _normal(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    real = random.standard_normal(shape)
    return np.asarray(real + 1j * random.standard_normal(shape) if dtype.startswith("complex") else real)


def _short(array: Array) -> Array:
    """Return the nearest numbers of 8 significant bits that are multiples of 2^-16: float16 and bfloat16 have them."""
    if np.iscomplexobj(array):
        return np.asarray(_short(array.real) + 1j * _short(array.imag))
    mantissa, exponent = np.frexp(np.round(array * 2.0**16) / 2.0**16)
    return np.asarray(np.ldexp(np.round(mantissa * 2.0**8) / 2.0**8, exponent))


def definition(generator: Generator) -> Callable[[Mapping[str, Array]], Array]:
    """Return the function from NumPy cores to the weight by definition: for each level a contraction, then f.

    It also takes complex cores for real ones, where the activations are holomorphic.
    """
    network = generator.network
    one = _one_weight(network)
    if network.batch is None:
        return one
    count = network.batch
    return lambda cores: np.stack([one({name: core[item] for name, core in cores.items()}) for item in range(count)])


def _one_weight(network: Network) -> Callable[[Mapping[str, Array]], Array]:
    blocks = []
    for before, level in network.states():
        tensors = [*([before] if before else []), *(node.legs for node in level.nodes)]
        labels = dict.fromkeys(leg for legs in tensors for leg in legs)
        symbols = {leg: opt_einsum.get_symbol(place) for place, leg in enumerate(labels)}
        equation = ",".join("".join(symbols[leg] for leg in legs) for legs in tensors)
        equation += "->" + "".join(symbols[leg] for leg in level.output)
        shapes = [tuple(leg.size for leg in legs) for legs in tensors]
        blocks.append((opt_einsum.contract_expression(equation, *shapes), level))
    layout = network.layout
    axes = sorted(range(len(layout.order)), key=lambda place: layout.order[place])
    crop = tuple(slice(size) for size in layout.shape)

    def weight(cores: Mapping[str, Array]) -> Array:
        is_complex = any(np.iscomplexobj(core) for core in cores.values())
        state: tuple[Array, ...] = ()
        for contract, level in blocks:
            block = np.asarray(contract(*state, *(cores[node.core] for node in level.nodes)))
            state = (level.activation.function(namespace("numpy", is_complex), block),)
        return np.asarray(cores[SCALE] * state[0].transpose(axes).reshape(layout.padded_shape)[crop])

    return weight


def finite_difference_errors(generator: Generator, made: Reference, seed: int = 0) -> dict[str, float]:
    """Return how far each core's gradient is from central finite differences, relative to its norm.

    Along a random direction whose entries have the variance 1, so that the square of what is found is, on average, the
    square of the error's norm.
    """
    weight = definition(generator)
    errors = {}
    for place, (name, core) in enumerate(made.cores.items()):
        dtype = "complex128" if np.iscomplexobj(core) else "float64"
        along = _normal(np.random.default_rng([seed, place]), core.shape, dtype)

        def loss(step: float, name: str = name, core: Array = core, along: Array = along) -> float:
            return float(np.vdot(made.weight_bar, weight({**made.cores, name: core + step * along})).real)

        size = made.sizes[name]
        found = derivative(loss, 0.1 * float(np.linalg.norm(core) / np.linalg.norm(along)) or 0.1, 1e-11 * size)
        errors[name] = abs(found - float(np.vdot(made.gradients[name], along).real)) / size
    return errors


#: Rows of the extrapolation of `derivative`, and how much the step shrinks from one to the next.
ROWS, SHRINK = 10, 4.0
#: The error that `derivative` may leave: about the root of epsilon where the loss has kinks, far less elsewhere.
FINITE_DIFFERENCE_TOLERANCE = 2.0**-26


def derivative(function: Callable[[float], float], step: float, enough: float) -> float:
    """Return f'(0) by central differences, extrapolated to a vanishing step.

    >>> abs(derivative(lambda t: t + t**3, 0.1, 1e-12) - 1) < 1e-12
    True

    Of all extrapolations, the one that agrees best with those that it was made from is taken, so that a kink within the
    first steps only makes later ones be taken.

    Args:
        function: f, of a real number.
        step: the first and largest step.
        enough: an estimated error at which to stop.

    Source: C. Ridders, Adv. Eng. Softw. 4, 75 (1982).
    """
    best, least = float("nan"), float("inf")
    row: list[float] = []
    for _ in range(ROWS):
        fresh = [(function(step) - function(-step)) / (2 * step)]
        for order, coarse in enumerate(row, start=1):
            fresh.append(fresh[-1] + (fresh[-1] - coarse) / (SHRINK ** (2 * order) - 1))
            error = max(abs(fresh[-1] - fresh[-2]), abs(fresh[-1] - coarse))
            if error <= least:
                best, least = fresh[-1], error
        if least <= enough:
            break
        row, step = fresh, step / SHRINK
    return best


def complex_step_errors(generator: Generator, made: Reference, seed: int = 0) -> dict[str, float]:
    """Return how far each core's gradient is from a complex step, relative to its norm; along random directions.

    For holomorphic activations and real cores; there is no subtraction in it, so it is exact to rounding.

    Source: W. Squire, G. Trapp, SIAM Rev. 40, 110 (1998).
    """
    weight = definition(generator)
    step = 2.0**-100
    errors = {}
    for place, (name, core) in enumerate(made.cores.items()):
        along = np.random.default_rng([seed, place]).standard_normal(core.shape)
        moved = weight({**made.cores, name: core + 1j * step * along})
        found = float(np.vdot(made.weight_bar, moved).imag) / step
        errors[name] = abs(found - float(np.vdot(made.gradients[name], along))) / made.sizes[name]
    return errors
