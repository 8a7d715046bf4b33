"""Generated weights on four devices of the host, beside one: writes how far apart they come, and what was sent.

Run by `tests/jax/test_distributed.py`, with XLA_FLAGS=--xla_force_host_platform_device_count=4; argument: the file for
the results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import adntn
import adntn_jax
from adntn_jax.communication import messages
from adntn_jax.distributed import part, value_and_grad

TOPOLOGIES = {
    "TTN": adntn.TTN.options(bond=4, leg=2),
    "AugmentedTTN": adntn.AugmentedTTN.options(bond=2, mixing_activation="tanh"),
    "MERA": adntn.MERA.options(bond=2),
}
WIDTH, HIDDEN, ROWS = 32, 64, 8


def compared(topology: str, differentiation: str) -> dict[str, Any]:
    """Return losses and gradients of every way beside those on one device."""
    up, down = TOPOLOGIES[topology]((HIDDEN, WIDTH)), TOPOLOGIES[topology]((WIDTH, HIDDEN))
    made = {"u": up.init(0, backend="jax", dtype="float64"), "d": down.init(1, backend="jax", dtype="float64")}
    x = jax.random.normal(jax.random.key(0), (ROWS, WIDTH))
    mesh = jax.make_mesh((jax.device_count(),), ("devices",), axis_types=(AxisType.Auto,))
    weight = partial(adntn_jax.weight, differentiation=differentiation)

    def loss(cores: Any, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(x @ weight(up, cores["u"]).T)
        return jnp.mean((hidden @ weight(down, cores["d"]).T - x) ** 2)

    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P()), out_specs=P())
    def tensor_parallel(cores: Any, x: jax.Array) -> jax.Array:
        rows, own = part(up, cores["u"], "devices")
        hidden = jnp.tanh(x @ weight(rows, own).T)
        columns, own = part(down, cores["d"], "devices", dimension=1)
        return jnp.mean((jax.lax.psum(hidden @ weight(columns, own).T, "devices") - x) ** 2)

    divided = jax.device_put(x, NamedSharding(mesh, P("devices")))
    ways: dict[str, tuple[Callable[..., Any], jax.Array]] = {
        "data parallel": (value_and_grad(loss, mesh, "devices"), divided),
        "tensor parallel": (jax.value_and_grad(tensor_parallel), x),
    }
    if topology == "TTN":
        ways["jit alone"] = (jax.value_and_grad(loss), divided)
    expected = jax.jit(jax.value_and_grad(loss))(made, x)
    found = {}
    for name, (way, given) in ways.items():
        compiled = jax.jit(way).lower(made, given).compile()
        value, gradients = compiled(made, given)
        errors = jax.tree.map(
            lambda one, other: float(jnp.linalg.norm(one - other) / jnp.linalg.norm(other)), gradients, expected[1]
        )
        found[name] = {
            "error of loss": abs(float(value - expected[0])),
            "error of gradients": max(jax.tree.leaves(errors)),
            "messages": messages(compiled),
        }
    return {"parameters": up.parameters + down.parameters, "ways": found}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    paths = {"TTN": "adjoint", "AugmentedTTN": "native", "MERA": "adjoint"}
    Path(sys.argv[1]).write_text(json.dumps({topology: compared(topology, path) for topology, path in paths.items()}))
