"""x @ W.T from x and the cores under JAX: what `adntn.contracting` does, with a loop over the slabs of many rows.

JAX differentiates it, in every mode and order. An adjoint of our own would be mapped over a batch as a whole, with
gradients of all cores for each example; JAX sums them over the examples inside of its matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from adntn import Generator
from adntn.arrays import namespace_of
from adntn.program.contract import FEW_ROWS, LARGEST, halves, slab_rows
from adntn.program.run import run
from adntn_jax.tiles import wide

Arrays = Mapping[str, jax.Array]


def contracted(generator: Generator, cores: Arrays, x: jax.Array, largest: int = LARGEST) -> jax.Array:
    """Return x @ W.T, of shape (..., out), in the cores' number type.

    >>> import adntn
    >>> generator = adntn.TTN((64, 64), bond=2, activation="identity")
    >>> cores, x = generator.init(backend="jax"), jnp.ones((3, 64))
    >>> bool(jnp.allclose(contracted(generator, cores, x), generator.apply(cores, x), atol=1e-5))
    True

    It may be jitted, mapped, scanned and sharded, and differentiated in every mode.
    Mapped over a batch, each example's rows are taken in slabs for themselves. A few rows are contracted in the order
    that is best for `FEW_ROWS`: they are most likely one example of such a batch.

    Args:
        generator: of one matrix (out, in), with no activation after the last level.
        cores: JAX arrays by name, checked.
        x: shape (..., in), of the cores' number type.
        largest: x is taken in slabs of rows, of which no result in between holds more numbers than that; where there
            are several, the backward pass makes those of one slab at a time again.
    """
    network, dtype = generator.network, x.dtype
    (out_features, features), (_, columns) = network.layout.shape, network.layout.padded_shape
    rows = math.prod(x.shape[:-1])
    slab = slab_rows(network, max(rows, 1), largest, generator.paths)
    plan = halves(network, slab, generator.paths, max(slab, FEW_ROWS))
    computed = {name: wide(core) for name, core in cores.items()}
    made = run(plan.head, computed, namespace_of(computed.values()))
    known = {**computed, **{tensor.name: array for tensor, array in zip(plan.head.outputs, made, strict=True)}}
    slabs = -(-rows // slab)
    padded = jnp.pad(wide(x).reshape(rows, features), ((0, slabs * slab - rows), (0, columns - features)))

    def product(x: jax.Array) -> jax.Array:
        (y,) = run(plan.tail, {**known, plan.x.name: x}, namespace_of([x]))
        kept: jax.Array = y.reshape(slab, -1)[:, :out_features]
        return kept

    if slabs == 1:
        y = product(padded)
    else:
        y = jax.lax.map(jax.checkpoint(product, prevent_cse=False), padded.reshape(slabs, slab, columns))
    return y.reshape(-1, out_features)[:rows].reshape(*x.shape[:-1], out_features).astype(dtype)
