"""Flax NNX layers with generated kernels; signatures as in `flax.nnx`, then keywords of our own.

NNX computes the outputs: a layer hands its kernel to the dense layer that it stands for. What cannot be meant for a
generated kernel is left out of the signatures: `kernel_init` (`std` is the start) and `kernel_metadata`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes

from adntn.backends import Differentiation
from adntn.network import SCALE
from adntn.program.schedule import Choice
from adntn.program.task import ScheduleName
from adntn.tiling import tiling
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions, generator_of
from adntn_jax import tiles
from adntn_jax.again import made_again
from adntn_jax.contracting import contracted
from adntn_jax.differentiate import path_of, weight
from adntn_jax.engines import JAX
from adntn_jax.generated import checked_dtype, drawn_cores
from adntn_jax.schedule import Scheduling, scheduling

__all__ = ["Conv", "GeneratedLayer", "Linear"]

NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class GeneratedLayer(nnx.Module):
    """A layer of `flax.nnx` whose kernel is generated from cores; use `Linear` or `Conv`.

    The cores are those of the weight in the order (out, in, ...) that torch and Equinox have: the same cores make the
    same layer there. The kernel, (..., in, out), is that weight transposed.

    Attributes:
        cores: the `nnx.Param`s to learn, by name.
        bias: as in `flax.nnx`, an `nnx.Param` or None.
        topology: the options that the generator was built from.
        generator: makes the weight, of shape `generator.shape`.
        differentiation: "native" or "adjoint".
        engine: the array library that generates the weight.
        scheduling: how much of the kernel exists, and when: the schedule and the memory limit.
    """

    #: The dense layer that this one stands for.
    dense_kind: ClassVar[Callable[..., nnx.Module]]

    scheduling: Scheduling
    dtype: Any
    promote_dtype: Callable[..., Any]

    def __init__(
        self,
        arguments: dict[str, Any],
        *,
        bias_init: Callable[..., jax.Array],
        bias_metadata: Mapping[str, Any],
        rngs: nnx.Rngs,
        topology: TopologyOptions,
        differentiation: Differentiation | None,
        engine: str,
        std: float | None,
        schedule: ScheduleName,
        memory_limit: int | None,
    ) -> None:
        """Build the layer that stands for `dense_kind(**arguments)`; every argument becomes an attribute."""
        number = checked_dtype(arguments["param_dtype"])
        for name, value in arguments.items():
            setattr(self, name, value)
        self.dense_arguments = tuple(arguments)
        dense: Any = nnx.eval_shape(lambda: self._built(nnx.initializers.zeros, nnx.initializers.zeros))
        self.topology, self.generator = topology, generator_of(topology, self._weight_shape(dense))
        self.differentiation, self.engine = path_of(differentiation, engine), engine
        self.scheduling = scheduling(
            self.generator,
            schedule,
            memory_limit,
            differentiation,
            engine,
            streams=self._has_independent_rows,
            contracts=self._has_the_usual_product,
        )
        start = 1.0 / math.sqrt(self.generator.fan_in) if std is None else std
        drawn = drawn_cores(self.generator, rngs.params(), number, start)
        self.cores = nnx.Dict({name: nnx.Param(core) for name, core in drawn.items()})
        self.bias: Any = nnx.data(None)
        if getattr(dense, "bias", None) is not None:
            self.bias = nnx.Param(bias_init(rngs.params(), dense.bias.shape, number), **bias_metadata)

    def _weight_shape(self, dense: Any) -> tuple[int, ...]:
        """Return the shape of the weight, given the dense layer without data."""
        *rest, inputs, outputs = dense.kernel.shape
        return outputs, inputs, *rest

    @property
    def kernel(self) -> jax.Array:
        """The generated kernel, computed anew on every access; differentiable with respect to the cores."""
        return _kernel(weight(self.generator, self._arrays, self.differentiation, self.engine))

    def to_dense(self) -> Any:
        """Return the layer of `flax.nnx` with this kernel and bias."""
        return self._dense(self.kernel)

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Return the dense layer's output."""
        output: jax.Array
        choice = self.scheduling.taken(math.prod(inputs.shape[:-1]), self.cores[SCALE][...].dtype.name)
        if choice is None or choice.taken.schedule == "materialise":
            return self._output(self.to_dense(), inputs, out_sharding)
        tiled = tiling(self.generator.network, self.generator.paths, choice.taken.plan)
        if choice.taken.schedule == "recompute" or out_sharding is not None:

            def whole(cores: dict[str, jax.Array], inputs: jax.Array) -> Any:
                return self._output(self._dense(_kernel(tiles.weight(tiled, cores))), inputs, out_sharding)

            return made_again(whole, self._arrays, inputs)
        if choice.taken.schedule == "contract":
            made = jax.eval_shape(lambda: jnp.zeros(self.generator.shape[::-1], self.cores[SCALE][...].dtype))
            like = jax.eval_shape(lambda kernel, inputs: self._dense(kernel)(inputs), made, inputs)  # checks the inputs
            output = contracted(self.generator, self._arrays, inputs.astype(like.dtype))
        else:

            def rows(tile: jax.Array, inputs: jax.Array) -> jax.Array:
                made: jax.Array = self._dense(_kernel(tile), use_bias=False, out_features=tile.shape[0])(inputs)
                return made

            output = tiles.streamed(tiled, self._arrays, inputs, rows, axis=inputs.ndim - 1)
        if self.bias is None:
            return output
        bias = self.bias[...]
        _, _, promoted = self.promote_dtype((inputs, bias, bias), dtype=self.dtype)  # the kernel has the bias's type
        output += promoted
        return output

    def _output(self, dense: Any, inputs: jax.Array, out_sharding: Any) -> jax.Array:
        output: jax.Array = dense(inputs, out_sharding=out_sharding)
        return output

    def choice(self, rows: int, training: bool = True) -> Choice:
        """Return which schedule is taken for so many vectors (of a convolution: places in all examples), and why.

        >>> layer = Linear(256, 256, schedule="stream", rngs=nnx.Rngs(0))
        >>> print(layer.choice(32).taken.schedule)
        stream

        Raises:
            ValueError: if nothing fits into the layer's memory limit; the error names the least that would.
        """
        return self.scheduling.choice(rows, self.cores[SCALE][...].dtype.name, training)

    @property
    def _arrays(self) -> dict[str, jax.Array]:
        return {name: core[...] for name, core in self.cores.items()}

    @property
    def _has_independent_rows(self) -> bool:
        """Whether some outputs' part of the kernel is the kernel of a dense layer with fewer outputs."""
        return getattr(self, "feature_group_count", 1) == 1 and getattr(self, "mask", None) is None

    @property
    def _has_the_usual_product(self) -> bool:
        """Whether NNX multiplies as contractions do: without a function or a precision of the user's own."""
        own = (getattr(self, name, None) for name in ("precision", "preferred_element_type"))
        return getattr(self, "dot_general", jax.lax.dot_general) is jax.lax.dot_general and set(own) == {None}

    def _dense(self, kernel: Any, **changed: Any) -> Any:
        return self._built(lambda *_: kernel, lambda *_: self.bias[...], **changed)

    def _built(self, kernel_init: Callable[..., Any], bias_init: Callable[..., Any], **changed: Any) -> nnx.Module:
        arguments = {name: getattr(self, name) for name in self.dense_arguments} | changed
        return type(self).dense_kind(**arguments, kernel_init=kernel_init, bias_init=bias_init, rngs=nnx.Rngs(0))


def _kernel(weight: jax.Array) -> jax.Array:
    """Return a weight of shape (out, in, ...) as a kernel of shape (..., in, out)."""
    return jnp.transpose(weight, (*range(2, weight.ndim), 1, 0))


class Linear(GeneratedLayer):
    """`flax.nnx.Linear` with a generated kernel of shape (in_features, out_features).

    >>> import adntn
    >>> layer = Linear(256, 64, topology=adntn.MERA.options(bond=2), rngs=nnx.Rngs(0))
    >>> layer(jnp.zeros((3, 256))).shape
    (3, 64)

    Args:
        in_features, out_features, use_bias, dtype, param_dtype, precision, rngs: as in `flax.nnx.Linear`.
        bias_init, bias_metadata, dot_general, promote_dtype, preferred_element_type: the same.
        topology: how the weight is generated, such as `adntn.TTN.options(bond=4)`.
        differentiation: "native", JAX's own, or "adjoint", the library's; see `adntn_jax.weight`.
        engine: the array library that generates the weight; see `adntn_jax.weight`.
        std: the start's standard deviation; None takes that of `flax.nnx`, 1 / sqrt(fan in).
        schedule: how the weight meets x: "materialise", "recompute", "stream" (not with groups or a mask), "contract"
            (not with a product of one's own; see `adntn.program.schedule`), or "auto", the fastest that is predicted
            for each number of rows. A call with an `out_sharding` recomputes instead of the last two. Where
            differentiation="native" is asked for, or another engine computes, the weight is materialised.
        memory_limit: bytes that may be held beyond cores, x, y and their gradients; None lets "auto" take what a dense
            layer does that is trained with Adam: the weight, its gradient and two moments.

    Raises:
        TypeError, ValueError: from NNX, the topology or the options, for what they do not accept.
    """

    dense_kind = nnx.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        bias_init: Callable[..., jax.Array] = nnx.initializers.zeros_init(),  # noqa: B008 (NNX's default)
        dot_general: Callable[..., jax.Array] = jax.lax.dot_general,
        promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
        preferred_element_type: Any = None,
        rngs: nnx.Rngs,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str = JAX,
        std: float | None = None,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
    ) -> None:
        arguments = {
            "in_features": in_features,
            "out_features": out_features,
            "use_bias": use_bias,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "precision": precision,
            "dot_general": dot_general,
            "promote_dtype": promote_dtype,
            "preferred_element_type": preferred_element_type,
        }
        super().__init__(
            arguments,
            bias_init=bias_init,
            bias_metadata=bias_metadata,
            rngs=rngs,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            std=std,
            schedule=schedule,
            memory_limit=memory_limit,
        )


class Conv(GeneratedLayer):
    """`flax.nnx.Conv` with a generated kernel of shape (*kernel_size, in_features / groups, out_features).

    >>> layer = Conv(16, 32, (3, 3), strides=2, feature_group_count=2, rngs=nnx.Rngs(0))
    >>> layer(jnp.zeros((1, 8, 8, 16))).shape
    (1, 4, 4, 32)

    Arguments are those of `flax.nnx.Conv` without `kernel_init` and `kernel_metadata`, then those of
    `adntn_jax.nnx.Linear` after `bias_metadata`.
    """

    dense_kind = nnx.Conv

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        padding: Any = "SAME",
        input_dilation: int | Sequence[int] | None = 1,
        kernel_dilation: int | Sequence[int] | None = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        mask: jax.Array | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        conv_general_dilated: Callable[..., jax.Array] = jax.lax.conv_general_dilated,
        precision: Any = None,
        bias_init: Callable[..., jax.Array] = nnx.initializers.zeros_init(),  # noqa: B008 (NNX's default)
        promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
        preferred_element_type: Any = None,
        rngs: nnx.Rngs,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str = JAX,
        std: float | None = None,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
    ) -> None:
        arguments = {
            "in_features": in_features,
            "out_features": out_features,
            "kernel_size": kernel_size,
            "strides": strides,
            "padding": padding,
            "input_dilation": input_dilation,
            "kernel_dilation": kernel_dilation,
            "feature_group_count": feature_group_count,
            "use_bias": use_bias,
            "mask": mask,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "conv_general_dilated": conv_general_dilated,
            "precision": precision,
            "promote_dtype": promote_dtype,
            "preferred_element_type": preferred_element_type,
        }
        super().__init__(
            arguments,
            bias_init=bias_init,
            bias_metadata=bias_metadata,
            rngs=rngs,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            std=std,
            schedule=schedule,
            memory_limit=memory_limit,
        )
