"""Large neural-network weights generated from small nonlinear tensor networks, on any array library."""

from adntn import interop
from adntn.activations import ACTIVATIONS, Activation
from adntn.arrays import Namespace
from adntn.fit import Fit, fit, hierarchical_svd
from adntn.generator import Generator
from adntn.network import Core, Leg, Level, Network, Node
from adntn.report import Report
from adntn.shapes import Layout
from adntn.topologies import (
    MERA,
    TTN,
    AugmentedTTN,
    Block,
    Brickwall,
    Custom,
    LowRank,
    Options,
    TensorTrain,
    Topology,
    Tucker,
    topology,
)

__version__ = "0.1.0"

__all__ = [
    "ACTIVATIONS",
    "MERA",
    "TTN",
    "Activation",
    "AugmentedTTN",
    "Block",
    "Brickwall",
    "Core",
    "Custom",
    "Fit",
    "Generator",
    "Layout",
    "Leg",
    "Level",
    "LowRank",
    "Namespace",
    "Network",
    "Node",
    "Options",
    "Report",
    "TensorTrain",
    "Topology",
    "Tucker",
    "fit",
    "hierarchical_svd",
    "interop",
    "topology",
]
