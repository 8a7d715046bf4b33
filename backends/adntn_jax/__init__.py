"""Generated weights in JAX: a pytree of cores, two ways to differentiate, and layers of Equinox and Flax NNX.

>>> import adntn, adntn_jax, jax
>>> generator = adntn.TTN((64, 64), bond=2)
>>> cores = generator.init(seed=0, backend="jax")
>>> loss = lambda cores: (adntn_jax.weight(generator, cores, differentiation="adjoint") ** 2).sum()
>>> jax.jit(jax.grad(loss))(cores)["top"].shape
(2, 2, 2)

Layers are in `adntn_jax.equinox` and `adntn_jax.nnx`, to be imported by name: each needs its own library.
"""

from adntn.backends import DIFFERENTIATIONS, Differentiation
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions
from adntn_jax.differentiate import weight

__all__ = ["DEFAULT_TOPOLOGY", "DIFFERENTIATIONS", "Differentiation", "TopologyOptions", "weight"]
