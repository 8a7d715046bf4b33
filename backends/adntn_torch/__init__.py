"""torch layers whose weights are generated, and the way to put them into an existing network.

>>> import adntn, adntn_torch, torch
>>> layer = adntn_torch.Linear(4096, 4096, topology=adntn.TTN.options(bond=2), device="meta")
>>> sum(parameter.numel() for parameter in layer.cores.values()), layer.weight.shape
(177, torch.Size([4096, 4096]))
"""

from adntn.backends import DIFFERENTIATIONS, Differentiation
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions
from adntn_torch.adapters import Adaptation, adapt, load_adapter, save_adapter
from adntn_torch.attention import MultiheadAttention
from adntn_torch.batched import BatchedLinear, DenseBatchedLinear
from adntn_torch.compress import Compression, Row, Rule, above, compress, expand, generated_layers
from adntn_torch.embedding import Embedding
from adntn_torch.export import export_onnx
from adntn_torch.files import load_compressed, save_compressed
from adntn_torch.fit import Fit, fit
from adntn_torch.fused import fused_linear
from adntn_torch.generated import GeneratedLayer
from adntn_torch.layers import Conv1d, Conv2d, Conv3d, Linear
from adntn_torch.transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

__all__ = [
    "DEFAULT_TOPOLOGY",
    "DIFFERENTIATIONS",
    "Adaptation",
    "BatchedLinear",
    "Compression",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "DenseBatchedLinear",
    "Differentiation",
    "Embedding",
    "Fit",
    "GeneratedLayer",
    "Linear",
    "MultiheadAttention",
    "Row",
    "Rule",
    "TopologyOptions",
    "above",
    "adapt",
    "compress",
    "expand",
    "export_onnx",
    "fit",
    "fused_linear",
    "generated_layers",
    "load_adapter",
    "load_compressed",
    "save_adapter",
    "save_compressed",
]
