"""Generated weights on many devices by JAX's own `shard_map`: only cores' gradients are sent, and no weight.

XLA adds gradients up where they arise: of a batch that lies on several devices, at the product with x, where they are
as large as the weight. It does so under `jit` with a `NamedSharding`, and under `shard_map`, too. What is here says
first that each device has cores of its own; then their gradients are what is added up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from adntn import Generator


def value_and_grad(loss: Callable[..., jax.Array], mesh: Mesh, axis: str = "data") -> Callable[..., tuple[Any, Any]]:
    """Return `jax.value_and_grad(loss)` for batches that are divided among devices, whose mean loss is taken.

    >>> import adntn, jax
    >>> generator = adntn.TTN((64, 32), bond=2)
    >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> step = jax.jit(value_and_grad(lambda cores, x: (generator.apply(cores, x) ** 2).mean(), mesh))
    >>> loss, gradients = step(generator.init(backend="jax"), jax.numpy.ones((8, 32)))
    >>> loss.shape, gradients["top"].shape == generator.core_shapes["top"]
    ((), True)

    Args:
        loss: from parameters, a pytree of arrays such as cores, and a batch, one or more pytrees of arrays, to the mean
            loss of the examples, a scalar.
        mesh: the devices.
        axis: of the mesh, along which the first axes of the batch are divided.

    Returns:
        A function of the parameters, whole on every device, and the batch, whose first axes the number of devices must
        divide. Its results are whole on every device. Compile it with `jax.jit`.

    Raises:
        ValueError: if the mesh has no such axis.
    """
    if axis not in mesh.axis_names:
        raise ValueError(f"axis must be one of the mesh's, {', '.join(map(repr, mesh.axis_names))}, got {axis!r}")

    def on_device(parameters: Any, *batch: Any) -> Any:
        own = jax.lax.pcast(parameters, axis, to="varying")
        return jax.lax.pmean(jax.value_and_grad(loss)(own, *batch), axis)  # type: ignore[no-untyped-call]

    def on_all(parameters: Any, *batch: Any) -> Any:
        whole, divided = (PartitionSpec(*axes) for axes in ((), (axis,)))  # type: ignore[no-untyped-call]
        specs = (whole, *(divided for _ in batch))
        return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=whole)(parameters, *batch)

    return on_all


def part(
    generator: Generator, cores: Mapping[str, jax.Array], axis: str, dimension: int = 0
) -> tuple[Generator, dict[str, jax.Array]]:
    """Return, inside of `shard_map`, the generator of a device's own part of a weight, and the cores for it.

    >>> import adntn, jax, functools
    >>> from jax.sharding import PartitionSpec as P
    >>> generator = adntn.TTN((64, 32), bond=2)
    >>> mesh = jax.make_mesh((jax.device_count(),), ("tensor",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P()), out_specs=P(None, "tensor"))
    ... def features(cores, x):
    ...     own, cut = part(generator, cores, "tensor")
    ...     return own.apply(cut, x)
    >>> features(generator.init(backend="jax"), jax.numpy.ones((8, 32))).shape
    (8, 64)

    Rows, dimension 0, are output features: y is then divided along its last axis. Columns, dimension 1, are input
    features: x must be divided along its last axis, and `jax.lax.psum` of what the devices make is y.

    Args:
        generator: of the whole weight.
        cores: the whole weight's, the same on every device.
        axis: of the mesh, along which the weight is divided.
        dimension: of the weight, which is divided.

    Raises:
        ValueError: if the number of devices does not divide the dimension (see `Generator.parts`).
    """
    parts = generator.parts(jax.lax.axis_size(axis), dimension)
    own = jax.lax.pcast(dict(cores), axis, to="varying")
    return parts.generator, parts.cores(own, jax.lax.axis_index(axis))
