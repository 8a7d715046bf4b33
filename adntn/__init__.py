"""Large neural-network weights generated from small nonlinear tensor networks, on any array library."""

from adntn import drawing, interop
from adntn.activations import ACTIVATIONS, Activation
from adntn.arrays import Namespace
from adntn.backends import Backend, Status, backend, backends
from adntn.files import FormatError, load, save
from adntn.fit import Fit, fit, hierarchical_svd
from adntn.generator import Generator
from adntn.network import Core, Leg, Level, Network, Node
from adntn.optimise import Adam
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
from adntn.verification.result import Cell, Verification
from adntn.verify import verify

__version__ = "0.1.0"

__all__ = [
    "ACTIVATIONS",
    "MERA",
    "TTN",
    "Activation",
    "Adam",
    "AugmentedTTN",
    "Backend",
    "Block",
    "Brickwall",
    "Cell",
    "Core",
    "Custom",
    "Fit",
    "FormatError",
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
    "Status",
    "TensorTrain",
    "Topology",
    "Tucker",
    "Verification",
    "backend",
    "backends",
    "drawing",
    "fit",
    "hierarchical_svd",
    "interop",
    "load",
    "save",
    "topology",
    "verify",
]
