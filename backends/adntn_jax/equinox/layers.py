"""Equinox layers with generated weights; signatures as in `equinox.nn`, then keywords of our own.

Equinox checks the arguments and computes the outputs: a layer hands its weight to the dense layer that it stands for.
No class here is a subclass of that one: there `weight` is a leaf of the pytree, here it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from adntn import Generator
from adntn.backends import Differentiation
from adntn.network import SCALE
from adntn.program.schedule import Choice
from adntn.program.task import ScheduleName
from adntn.tiling import tiling
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions, check_no_topology, generator_of
from adntn_jax import tiles
from adntn_jax.again import made_again
from adntn_jax.contracting import contracted
from adntn_jax.differentiate import path_of, weight
from adntn_jax.engines import JAX
from adntn_jax.generated import checked_dtype, drawn_cores
from adntn_jax.schedule import Scheduling, scheduling

__all__ = ["Conv1d", "Conv2d", "Conv3d", "GeneratedLayer", "Linear"]

Sizes = int | Sequence[int]
Arguments = tuple[tuple[str, Any], ...]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


class GeneratedLayer(eqx.Module):
    """A layer of `equinox.nn` whose weight is generated from cores; use `Linear`, `Conv1d`, `Conv2d` or `Conv3d`.

    Attributes:
        cores: the arrays to learn, by name.
        bias: as in `equinox.nn`, an array or None.
        topology: the options that the generator was built from.
        generator: makes the weight, of shape `generator.shape`.
        differentiation: "native" or "adjoint".
        engine: the array library that generates the weight.
        scheduling: how much of the weight exists, and when: the schedule and the memory limit.
    """

    #: The dense layer that this one stands for, and the arguments that both are built with (also their attributes).
    dense_kind: ClassVar[Callable[..., eqx.Module]]
    dense_arguments: ClassVar[tuple[str, ...]]

    cores: dict[str, jax.Array]
    bias: jax.Array | None
    topology: TopologyOptions = eqx.field(static=True)
    generator: Generator = eqx.field(static=True, repr=False)
    differentiation: Differentiation = eqx.field(static=True)
    engine: str = eqx.field(static=True)
    scheduling: Scheduling = eqx.field(static=True)

    def __init__(
        self,
        arguments: dict[str, Any],
        *,
        dtype: Any,
        key: jax.Array,
        topology: TopologyOptions,
        differentiation: Differentiation | None,
        engine: str,
        std: float | None,
        schedule: ScheduleName,
        memory_limit: int | None,
    ) -> None:
        """Build the layer that stands for `dense_kind(**arguments)`."""
        check_no_topology(**arguments)
        build, number = type(self).dense_kind, checked_dtype(dtype)
        dense: Any = eqx.filter_eval_shape(lambda key: build(**arguments, dtype=number, key=key), key)
        for name in self.dense_arguments:
            setattr(self, name, getattr(dense, name))
        self.topology, self.generator = topology, generator_of(topology, dense.weight.shape)
        self.differentiation, self.engine = path_of(differentiation, engine), engine
        streams = getattr(self, "groups", 1) == 1
        self.scheduling = scheduling(self.generator, schedule, memory_limit, differentiation, engine, streams=streams)
        start = 1.0 / math.sqrt(3 * self.generator.fan_in) if std is None else std
        self.cores = drawn_cores(self.generator, jax.random.split(key)[0], number, start)
        self.bias = None if getattr(dense, "bias", None) is None else _dense_bias(build, self._arguments(), number, key)

    @property
    def weight(self) -> jax.Array:
        """The generated weight, computed anew on every access; differentiable with respect to the cores."""
        return weight(self.generator, self.cores, self.differentiation, self.engine)

    def to_dense(self) -> Any:
        """Return the layer of `equinox.nn` with this weight and bias."""
        return self._dense(self.weight)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Return the dense layer's output for one example; use `jax.vmap` for a batch, as in `equinox.nn`."""
        output: jax.Array
        choice = self.scheduling.taken(math.prod(x.shape[1:]), self.cores[SCALE].dtype.name)
        if choice is None or choice.taken.schedule == "materialise":
            output = self.to_dense()(x, key=key)
            return output
        if choice.taken.schedule == "contract":
            return self._contracted(x)
        tiled = tiling(self.generator.network, self.generator.paths, choice.taken.plan)
        if choice.taken.schedule == "recompute":
            return made_again(lambda cores, x: self._dense(tiles.weight(tiled, cores))(x), self.cores, x)
        product = _skeleton(type(self).dense_kind, (*self._arguments(), *self._of_rows))

        def rows(tile: jax.Array, x: jax.Array) -> jax.Array:
            made: jax.Array = eqx.tree_at(lambda dense: dense.weight, product, tile)(x)
            return made

        output = tiles.streamed(tiled, self.cores, x, rows, axis=0)
        output = output if self.bias is None else output + self.bias
        return output.reshape(output.shape[self._is_scalar :])

    def choice(self, rows: int = 1, training: bool = True) -> Choice:
        """Return which schedule is taken for one example (of a convolution: of so many places), and why.

        However many examples `jax.vmap` adds, they are not seen: what is held for each of them counts once.

        >>> layer = Linear(256, 256, schedule="stream", key=jax.random.key(0))
        >>> print(layer.choice().taken.schedule)
        stream

        Raises:
            ValueError: if nothing fits into the layer's memory limit; the error names the least that would.
        """
        return self.scheduling.choice(rows, self.cores[SCALE].dtype.name, training)

    @property
    def _of_rows(self) -> Arguments:
        """Arguments, instead of the layer's own, of a dense layer that makes some rows of the output."""
        return (("use_bias", False),)

    @property
    def _is_scalar(self) -> bool:
        return False

    def _contracted(self, x: jax.Array) -> jax.Array:
        """Return the output of a layer whose weight is a matrix."""
        made = jax.eval_shape(lambda: jnp.zeros(self.generator.shape, self.cores[SCALE].dtype))
        like = jax.eval_shape(lambda weight, x: self._dense(weight)(x), made, x)  # a wrong x is Equinox's to refuse
        output = contracted(self.generator, self.cores, x.reshape(-1).astype(like.dtype))
        output = output if self.bias is None else output + self.bias
        return output.reshape(like.shape)

    def _dense(self, weight: jax.Array) -> Any:
        dense = _skeleton(type(self).dense_kind, self._arguments())
        return eqx.tree_at(lambda dense: (dense.weight, dense.bias), dense, (weight, self.bias), is_leaf=_is_none)

    def _arguments(self) -> Arguments:
        return tuple((name, getattr(self, name)) for name in self.dense_arguments)


@eqx.filter_jit
def _dense_bias(kind: Callable[..., Any], arguments: Arguments, dtype: str, key: jax.Array) -> jax.Array:
    """Return the bias of a new dense layer; compiled, so that the weight, which nobody reads, is never drawn."""
    bias: jax.Array = kind(**dict(arguments), dtype=dtype, key=key).bias
    return bias


@lru_cache(maxsize=1024)
def _skeleton(kind: Callable[..., Any], arguments: Arguments) -> Any:
    """Return a dense layer with shapes in place of arrays."""
    return eqx.filter_eval_shape(lambda key: kind(**dict(arguments), key=key), jax.eval_shape(jax.random.key, 0))


def _is_none(leaf: Any) -> bool:
    return leaf is None


class Linear(GeneratedLayer):
    """`equinox.nn.Linear` with a generated weight.

    >>> import adntn
    >>> layer = Linear(256, 64, topology=adntn.MERA.options(bond=2), key=jax.random.key(0))
    >>> jax.vmap(layer)(jax.numpy.zeros((3, 256))).shape
    (3, 64)

    Args:
        in_features, out_features, use_bias, dtype, key: as in `equinox.nn.Linear`.
        topology: how the weight is generated, such as `adntn.TTN.options(bond=4)`.
        differentiation: "native", JAX's own, or "adjoint", the library's; see `adntn_jax.weight`.
        engine: the array library that generates the weight; see `adntn_jax.weight`.
        std: the start's standard deviation; None takes that of `equinox.nn`, 1 / sqrt(3 fan in).
        schedule: how the weight meets x: "materialise", "recompute", "stream" (not with groups), "contract" (see
            `adntn.program.schedule`), or "auto", the fastest that is predicted for one example; `jax.vmap` does not
            tell how many there are. Where differentiation="native" is asked for, or another engine computes, the
            weight is materialised.
        memory_limit: bytes that may be held beyond cores, x, y and their gradients, with one example; None lets "auto"
            take what a dense layer does that is trained with Adam: the weight, its gradient and two moments.

    Raises:
        TypeError, ValueError: from Equinox, the topology or the options, for what they do not accept.
    """

    dense_kind = eqx.nn.Linear
    dense_arguments = ("in_features", "out_features", "use_bias")

    in_features: int | str = eqx.field(static=True)
    out_features: int | str = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)

    @property
    def _of_rows(self) -> Arguments:
        return (("use_bias", False), ("out_features", 1))  # any number: Equinox reads it for "scalar" alone

    @property
    def _is_scalar(self) -> bool:
        return self.out_features == "scalar"

    def __init__(
        self,
        in_features: int | str,
        out_features: int | str,
        use_bias: bool = True,
        dtype: Any = None,
        *,
        key: jax.Array,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str = JAX,
        std: float | None = None,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
    ) -> None:
        arguments = {"in_features": in_features, "out_features": out_features, "use_bias": use_bias}
        super().__init__(
            arguments,
            dtype=dtype,
            key=key,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            std=std,
            schedule=schedule,
            memory_limit=memory_limit,
        )


class _Convolution(GeneratedLayer):
    """What convolutions over one, two and three axes share."""

    dense_arguments = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "use_bias",
        "padding_mode",
    )

    in_channels: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)
    kernel_size: tuple[int, ...] = eqx.field(static=True)
    stride: tuple[int, ...] = eqx.field(static=True)
    padding: str | tuple[tuple[int, int], ...] = eqx.field(static=True)
    dilation: tuple[int, ...] = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)
    padding_mode: str = eqx.field(static=True)

    def __init__(  # noqa: PLR0917 (Equinox's signature)
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        use_bias: bool = True,
        padding_mode: str = "ZEROS",
        dtype: Any = None,
        *,
        key: jax.Array,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str = JAX,
        std: float | None = None,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
    ) -> None:
        given = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, use_bias, padding_mode)
        super().__init__(
            dict(zip(self.dense_arguments, given, strict=True)),
            dtype=dtype,
            key=key,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            std=std,
            schedule=schedule,
            memory_limit=memory_limit,
        )


class Conv1d(_Convolution):
    """`equinox.nn.Conv1d` with a generated weight of shape (out_channels, in_channels / groups, width).

    >>> layer = Conv1d(16, 32, 5, padding="SAME", key=jax.random.key(0))
    >>> layer(jax.numpy.zeros((16, 100))).shape
    (32, 100)

    Arguments are those of `equinox.nn.Conv1d`, then those of `adntn_jax.equinox.Linear` after `key`.
    """

    dense_kind = eqx.nn.Conv1d


class Conv2d(_Convolution):
    """`equinox.nn.Conv2d` with a generated weight of shape (out_channels, in_channels / groups, height, width).

    >>> layer = Conv2d(16, 32, 3, stride=2, padding=1, groups=2, key=jax.random.key(0))
    >>> layer(jax.numpy.zeros((16, 8, 8))).shape
    (32, 4, 4)

    Arguments are those of `equinox.nn.Conv2d`, then those of `adntn_jax.equinox.Linear` after `key`.
    """

    dense_kind = eqx.nn.Conv2d


class Conv3d(_Convolution):
    """`equinox.nn.Conv3d` with a generated weight of shape (out_channels, in_channels / groups, depth, height, width).

    >>> layer = Conv3d(4, 8, (1, 3, 3), padding=(0, 1, 1), key=jax.random.key(0))
    >>> layer(jax.numpy.zeros((4, 2, 8, 8))).shape
    (8, 2, 8, 8)

    Arguments are those of `equinox.nn.Conv3d`, then those of `adntn_jax.equinox.Linear` after `key`.
    """

    dense_kind = eqx.nn.Conv3d
