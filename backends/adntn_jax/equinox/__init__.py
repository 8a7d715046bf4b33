"""Equinox layers with generated weights; signatures as in `equinox.nn`, then keywords of our own.

Equinox checks the arguments and computes the outputs: a layer hands its weight to the dense layer that it stands for.
No class here is a subclass of that one: there `weight` is a leaf of the pytree, here it is computed.
"""

from adntn_jax.equinox.attention import MultiheadAttention
from adntn_jax.equinox.embedding import Embedding
from adntn_jax.equinox.layers import Conv1d, Conv2d, Conv3d, GeneratedLayer, Linear
from adntn_jax.equinox.transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Embedding",
    "GeneratedLayer",
    "Linear",
    "MultiheadAttention",
]
