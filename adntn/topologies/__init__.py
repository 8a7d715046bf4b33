"""One small file for each architecture; each builds networks and does nothing else."""

from adntn.topologies.augmented_tree import AugmentedTTN
from adntn.topologies.brickwall import Brickwall
from adntn.topologies.custom import Block, Custom
from adntn.topologies.low_rank import LowRank
from adntn.topologies.mera import MERA
from adntn.topologies.tensor_train import TensorTrain
from adntn.topologies.topology import Options, Topology, topology
from adntn.topologies.tree import TTN
from adntn.topologies.tucker import Tucker

#: The topologies by name, for what is written as text; not `Custom`, whose blocks are no plain values.
BY_NAME: dict[str, Topology[...]] = {
    name: one for name, one in dict(globals()).items() if isinstance(one, Topology) and one is not Custom
}

__all__ = [
    "BY_NAME",
    "MERA",
    "TTN",
    "AugmentedTTN",
    "Block",
    "Brickwall",
    "Custom",
    "LowRank",
    "Options",
    "TensorTrain",
    "Topology",
    "Tucker",
    "topology",
]
