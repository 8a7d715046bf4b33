"""What JAX's devices send; started for `benchmarks.communication`. Argument: the file for the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import adntn_jax
from adntn_jax.communication import messages
from adntn_jax.distributed import part, value_and_grad
from benchmarks.spread import SETTING, Sent, sent

GENERATOR = SETTING.topology((SETTING.width, SETTING.width))
AXIS = "devices"

weight = partial(adntn_jax.weight, differentiation="adjoint")


def parameters(compressed: bool) -> list[Any]:
    """Return the cores, or the weights, of both layers, and their biases."""
    bias = jnp.zeros(SETTING.width)
    if compressed:
        return [(GENERATOR.init(seed, backend="jax"), bias) for seed in range(2)]
    shape, scale = (SETTING.width, SETTING.width), SETTING.width**-0.5
    return [(scale * jax.random.normal(jax.random.key(seed), shape), bias) for seed in range(2)]


def loss(layers: list[Any], x: jax.Array, compressed: bool) -> jax.Array:
    """Return how far the network is from giving x back."""
    first, second = ((weight(GENERATOR, w) if compressed else w, bias) for w, bias in layers)
    hidden = jax.nn.relu(x @ first[0].T + first[1])
    return jnp.mean((hidden @ second[0].T + second[1] - x) ** 2)


def tensor_parallel(compressed: bool) -> Callable[..., jax.Array]:
    """Return the same with the rows of the first weight and the columns of the second divided among devices."""
    whole, rows, columns = (P(*axes) for axes in ((), (AXIS,), (None, AXIS)))  # type: ignore[no-untyped-call]
    specs = [(whole if compressed else rows, rows), (whole if compressed else columns, whole)]

    def on_device(layers: list[Any], x: jax.Array) -> jax.Array:
        (first, bias), (second, last) = layers
        if compressed:
            first, second = (weight(*part(GENERATOR, w, AXIS, number)) for number, w in enumerate((first, second)))
        terms = jax.nn.relu(x @ first.T + bias) @ second.T
        y = jax.lax.psum(terms, AXIS) + last  # type: ignore[no-untyped-call]
        return jnp.mean((y - x) ** 2)

    return jax.shard_map(on_device, mesh=mesh(), in_specs=(specs, whole), out_specs=whole)


def mesh() -> jax.sharding.Mesh:
    """Return all devices."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def trained(step: Callable[..., Any], layers: list[Any], x: jax.Array) -> tuple[list[float], list[int]]:
    """Return the losses of some steps and the sizes of the messages of one."""
    compiled = jax.jit(step).lower(layers, x).compile()
    losses = []
    for _ in range(SETTING.steps):
        value, gradients = compiled(layers, x)
        layers = jax.tree.map(lambda one, bar: jax.device_put(one - 0.1 * bar, one.sharding), layers, gradients)
        losses.append(float(value))
    return losses, messages(compiled)


def measured(engine: str, compressed: bool) -> Sent:
    """Train a network on all devices, and on one."""
    own = partial(loss, compressed=compressed)
    x = jax.random.normal(jax.random.key(7), (SETTING.rows, SETTING.width))
    layers = parameters(compressed)
    expected, _ = trained(jax.value_and_grad(own), layers, x)
    whole, divided = (NamedSharding(mesh(), spec) for spec in (P(), P(AXIS)))  # type: ignore[no-untyped-call]
    steps = {
        "jit": (jax.value_and_grad(own), divided),
        "value_and_grad": (value_and_grad(own, mesh(), AXIS), divided),
        "tensor parallel": (jax.value_and_grad(tensor_parallel(compressed)), whole),
    }
    step, placed = steps[engine]
    losses, sizes = trained(step, jax.device_put(layers, whole), jax.device_put(x, placed))
    return sent(sum(leaf.size for leaf in jax.tree.leaves(layers)), sizes, losses, expected)


def main(target: str) -> None:
    """Measure every engine, dense and compressed."""
    found = {
        engine: {"dense": asdict(measured(engine, False)), "compressed": asdict(measured(engine, True))}
        for engine in ("jit", "value_and_grad", "tensor parallel")
    }
    Path(target).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
