"""Generators as networks of `quimb` and `tensornetwork`, and networks of these as generators.

Neither library is imported before a function that needs it is called.
"""

from adntn.interop.blocks import ExportedBlock, output_legs
from adntn.interop.quimb import from_quimb, quimb_blocks, quimb_network
from adntn.interop.tensornetwork import from_tensornetwork, open_edges, tensornetwork_blocks, tensornetwork_network

__all__ = [
    "ExportedBlock",
    "from_quimb",
    "from_tensornetwork",
    "open_edges",
    "output_legs",
    "quimb_blocks",
    "quimb_network",
    "tensornetwork_blocks",
    "tensornetwork_network",
]
