"""Damped Gauss-Newton steps, on the host in double precision: the rule for the damping, one step, and the loop.

Sources: D. W. Marquardt, J. SIAM 11, 431 (1963): damping in proportion to the diagonal, so that steps do not depend on
the units of each number; H. B. Nielsen, Damping parameter in Marquardt's method, IMM-REP-1999-05: how it changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

Vector = NDArray[Any]

EPSILON = float(np.finfo(np.float64).eps)

#: Steps that gain less than this share of what the quadratic model predicts are not taken.
LEAST_GAIN = 1e-4
#: With so much damping, a step that is still worse is worse because of rounding.
MOST_DAMPING = 1e16


@dataclass(frozen=True)
class Damping:
    """How far the quadratic model is to be trusted: much damping, short steps.

    >>> Damping(value=0.3).after(gain=1.0).value, Damping(value=0.3).after(gain=-1.0).value
    (0.09999999999999999, 0.6)

    Attributes:
        value: what is added to the diagonal, as a share of it.
        growth: by how much it grows if the next step fails.
    """

    value: float = 1e-3
    growth: float = 2.0

    def after(self, gain: float) -> Damping:
        """Return the damping after a step: less if it gained what was predicted, more if it was not taken.

        Args:
            gain: by how much the loss fell, as a share of what was predicted; NaN where there is no such loss.
        """
        if gain > LEAST_GAIN:
            return Damping(self.value * max(1 / 3, 1 - (2 * gain - 1) ** 3))
        return Damping(self.value * self.growth, 2 * self.growth)


def damped_step(matrix: Vector, gradient: Vector, damping: Damping) -> tuple[Vector, float]:
    """Return the step that minimises a damped quadratic model, and by how much the model itself falls.

    >>> step, predicted = damped_step(np.diag([1.0, 100.0]), np.array([1.0, 100.0]), Damping(1.0))
    >>> step.round(6).tolist(), round(predicted, 6)
    ([-0.5, -0.5], 37.875)

    Args:
        matrix: the second derivatives H of the model, Hermitian and positive semidefinite; shape (n, n).
        gradient: of the model (for complex numbers with respect to the conjugate, as H is); shape (n,).
        damping: H + damping * diag(H) is solved with.

    Raises:
        LinAlgError: if rounding has left H without positive eigenvalues: more damping helps.
    """
    diagonal = np.real(np.diagonal(matrix))
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))  # where nothing depends on a number, it stays
    scaled = matrix / np.outer(scale, scale)
    scaled[np.diag_indices_from(scaled)] += damping.value
    step = -cho_solve(cho_factor(scaled, lower=True), gradient / scale) / scale
    predicted = 0.5 * (damping.value * np.sum(np.abs(scale * step) ** 2) - np.vdot(gradient, step).real)
    return step, float(predicted)


def minimised(
    loss: Callable[[Vector], tuple[float, Vector]],
    curvature: Callable[[Vector], Vector],
    start: Vector,
    *,
    iterations: int,
    enough: float,
    report: Callable[[float], None],
) -> Vector:
    """Return where a sum of squares has a minimum near the start; each step lowers it.

    Args:
        loss: from numbers to the sum and its gradient.
        curvature: from numbers to the Gauss-Newton matrix, of the scale of the gradient.
        start: the numbers to start from.
        iterations: steps to take at most; it ends earlier where no step is better.
        enough: a sum below which there is nothing left to do.
        report: called after each step with the sum.

    Raises:
        ValueError: if the sum is not finite at the start.
    """
    here, damping = start, Damping()
    value, gradient = loss(here)
    if not math.isfinite(value):
        raise ValueError(f"the error must be finite where the search begins, got {value}: start from other cores")
    for _ in range(iterations):
        if value <= enough:
            break
        matrix = curvature(here)
        gain = 0.0
        while not gain > LEAST_GAIN:
            try:
                step, predicted = damped_step(matrix, gradient, damping)
            except LinAlgError:
                damping = damping.after(0.0)
                continue
            if damping.value > MOST_DAMPING or not predicted > EPSILON * value:
                return here
            trial_value, trial_gradient = loss(here + step)
            gain = (value - trial_value) / predicted
            damping = damping.after(gain)
        here, value, gradient = here + step, trial_value, trial_gradient
        report(value)
    return here
