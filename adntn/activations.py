"""The pointwise maps between linear blocks: f, f' and which of input and output f' is written from.

Written from primitives that every array library has, stable at extreme arguments. At a kink the derivative is that
of the left side: relu'(0) = 0 in every backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from adntn.arrays import Array, Namespace

#: A pointwise function of the bound array functions and one array.
Map = Callable[[Namespace, Array], Array]
#: From the bound array functions, the adjoint of f(z), what f' is written from, and `out`, to the adjoint of z.
Pull = Callable[..., Array]


@dataclass(frozen=True)
class Activation:
    """A pointwise function and its derivative.

    >>> cube = Activation("cube", lambda xp, z: z * z * z, lambda xp, z: 3 * z * z)

    Both functions return an array of the shape and number type that they get. `xp` has where, zeros_like, conj, exp,
    expm1, logaddexp, tanh, sin, cos and erf of the array library at hand; arithmetic is that of the arrays themselves.

    Attributes:
        name: how it is printed.
        function: f, of the bound array functions (`adntn.Namespace`) and the pre-activation.
        derivative: f', of the bound array functions and the array that `derivative_of` names.
        derivative_of: "output" where f' can be written from y = f(z), so that z need not be kept; else "input".
        holomorphic: whether f also serves complex cores.
        pull: x_bar * conj(f') written into `out`, in few passes over memory; optional, for libraries that can.
        overwrite: f written over its argument; optional, for libraries that can.
    """

    name: str
    function: Map
    derivative: Map
    derivative_of: Literal["input", "output"] = "input"
    holomorphic: bool = False
    pull: Pull | None = None
    overwrite: Map | None = None

    @property
    def is_identity(self) -> bool:
        """Whether the map leaves everything as it is."""
        return self is IDENTITY or self == IDENTITY

    def __str__(self) -> str:
        return self.name


def _identity(xp: Namespace, z: Array) -> Array:
    return z


def _one(xp: Namespace, z: Array) -> Array:
    return xp.zeros_like(z) + 1


def _tanh(xp: Namespace, z: Array) -> Array:
    return xp.tanh(z)


def _tanh_derivative(xp: Namespace, y: Array) -> Array:
    return 1 - y * y


def _tanh_pull(xp: Namespace, bar: Array, y: Array, *, out: Array) -> Array:
    return xp.tanh_adjoint(bar, y, out)


def _tanh_over(xp: Namespace, z: Array) -> Array:
    return xp.tanh(z, out=z)


def _sigmoid(xp: Namespace, z: Array) -> Array:
    return 0.5 * xp.tanh(0.5 * z) + 0.5


def _sigmoid_derivative(xp: Namespace, y: Array) -> Array:
    return y * (1 - y)


def _relu(xp: Namespace, z: Array) -> Array:
    return xp.where(z <= 0, xp.zeros_like(z), z)  # this way round a NaN stays one


def _relu_derivative(xp: Namespace, y: Array) -> Array:
    zero = xp.zeros_like(y)
    return xp.where(y > 0, zero + 1, zero)


LEAK = 0.01


def _leaky_relu(xp: Namespace, z: Array) -> Array:
    return xp.where(z <= 0, LEAK * z, z)


def _leaky_relu_derivative(xp: Namespace, y: Array) -> Array:
    zero = xp.zeros_like(y)
    return xp.where(y > 0, zero + 1, zero + LEAK)


def _elu(xp: Namespace, z: Array) -> Array:
    below = xp.expm1(xp.where(z > 0, xp.zeros_like(z), z))  # exp never sees a large number
    return xp.where(z > 0, z, below)


def _elu_derivative(xp: Namespace, y: Array) -> Array:
    return xp.where(y > 0, xp.zeros_like(y) + 1, y + 1)


def _gelu(xp: Namespace, z: Array) -> Array:
    return 0.5 * z * (1 + xp.erf(z * math.sqrt(0.5)))


def _gelu_derivative(xp: Namespace, z: Array) -> Array:
    density = xp.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
    return 0.5 * (1 + xp.erf(z * math.sqrt(0.5))) + z * density


def _silu(xp: Namespace, z: Array) -> Array:
    return z * _sigmoid(xp, z)


def _silu_derivative(xp: Namespace, z: Array) -> Array:
    gate = _sigmoid(xp, z)
    return gate * (1 + z * (1 - gate))


def _softplus(xp: Namespace, z: Array) -> Array:
    return xp.logaddexp(z, xp.zeros_like(z))


def _sin(xp: Namespace, z: Array) -> Array:
    return xp.sin(z)


def _sin_derivative(xp: Namespace, z: Array) -> Array:
    return xp.cos(z)


IDENTITY = Activation("identity", _identity, _one, "output", holomorphic=True)

#: Every activation by name.
ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        IDENTITY,
        Activation("tanh", _tanh, _tanh_derivative, "output", holomorphic=True, pull=_tanh_pull, overwrite=_tanh_over),
        Activation("sigmoid", _sigmoid, _sigmoid_derivative, "output", holomorphic=True),
        Activation("relu", _relu, _relu_derivative, "output"),
        Activation("leaky_relu", _leaky_relu, _leaky_relu_derivative, "output"),
        Activation("elu", _elu, _elu_derivative, "output"),
        Activation("gelu", _gelu, _gelu_derivative),
        Activation("silu", _silu, _silu_derivative, holomorphic=True),
        Activation("softplus", _softplus, _sigmoid),
        Activation("sin", _sin, _sin_derivative, holomorphic=True),
    )
}


def activation_of(activation: str | Activation) -> Activation:
    """Return an activation given by name, or the user's own as it is.

    Raises:
        ValueError: if no activation has that name.
        TypeError: if the argument is neither.
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(f"activation must be a name or an adntn.Activation, got {activation!r}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    return ACTIVATIONS[activation]
