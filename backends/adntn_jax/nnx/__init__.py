"""Flax NNX layers with generated kernels; signatures as in `flax.nnx`, then keywords of our own.

NNX computes the outputs: a layer hands its kernel to the dense layer that it stands for. What cannot be meant for a
generated kernel is left out of the signatures: `kernel_init` (`std` is the start) and `kernel_metadata`.
"""

from adntn_jax.nnx.embed import Embed
from adntn_jax.nnx.layers import Conv, GeneratedLayer, Linear
from adntn_jax.nnx.transposed import ConvTranspose

__all__ = ["Conv", "ConvTranspose", "Embed", "GeneratedLayer", "Linear"]
