"""The matrices: topologies, activations, shapes, array libraries, number types. A new one of a kind is a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import adntn

#: Every topology with its variants, each given the activation to use; all can make weights of SHAPE.
TOPOLOGIES: dict[str, Callable[[str], adntn.Options]] = {
    "TTN": lambda f: adntn.TTN.options(bond=2, activation=f),
    "TTN, ternary, activation on the weight": lambda f: adntn.TTN.options(
        bond=3, arity=3, leg=1, activation=f, last_activation=f
    ),
    "TTN, split": lambda f: adntn.TTN.options(bond=3, leg=1, activation=f, layout="split"),
    "TTN, shared in levels": lambda f: adntn.TTN.options(bond=2, activation=f, share="level"),
    "TTN, shared": lambda f: adntn.TTN.options(bond=2, activation=f, share="all"),
    "TTN, bonds per level": lambda f: adntn.TTN.options(bond=(4, 3), leg=1, activation=[f]),
    "TTN, factors": lambda f: adntn.TTN.options(bond=2, activation=f, factors=[(3, 2, 3), (2, 2, 2, 2)]),
    "TTN, batch": lambda f: adntn.TTN.options(bond=2, activation=f, batch=3),
    "AugmentedTTN": lambda f: adntn.AugmentedTTN.options(bond=2, activation=f),
    "AugmentedTTN, two boundaries, mixing": lambda f: adntn.AugmentedTTN.options(
        bond=3, leg=1, boundaries=[5, 1], activation=f, mixing_activation=f
    ),
    "MERA": lambda f: adntn.MERA.options(bond=2, activation=f),
    "MERA, periodic, mixing": lambda f: adntn.MERA.options(
        bond=3, leg=1, border="periodic", activation=f, mixing_activation=f
    ),
    "MERA, ternary, activation on the weight": lambda f: adntn.MERA.options(
        bond=2, arity=3, leg=1, layout="interleaved", activation=f, last_activation=f
    ),
    "MERA, shared, batch": lambda f: adntn.MERA.options(bond=2, activation=f, share="all", batch=3),
    "Brickwall, depth 1": lambda f: adntn.Brickwall.options(last_activation=f),
    "Brickwall, depth 3": lambda f: adntn.Brickwall.options(depth=3, activation=f, layout="interleaved"),
    "Brickwall, shared, batch": lambda f: adntn.Brickwall.options(depth=2, activation=f, share="level", batch=3),
    "TensorTrain": lambda f: adntn.TensorTrain.options(bond=3, last_activation=f),
    "TensorTrain, depth 2": lambda f: adntn.TensorTrain.options(depth=2, bond=(3, 2), activation=f, layout="split"),
    "TensorTrain, batch": lambda f: adntn.TensorTrain.options(depth=2, activation=f, batch=3),
    "LowRank": lambda f: adntn.LowRank.options(rank=3, last_activation=f),
    "LowRank, batch": lambda f: adntn.LowRank.options(rank=2, last_activation=f, batch=3),
    "Tucker": lambda f: adntn.Tucker.options(rank=(4, 3), activation=f, last_activation=f),
    "Tucker, batch": lambda f: adntn.Tucker.options(rank=3, activation=f, batch=3),
    "Custom": lambda f: adntn.Custom.options(
        blocks=[
            adntn.Block({"top": "a b", "loop": "b c"}, activation=f),
            adntn.Block({"left": "a r1 x", "shared": "x c y z"}, activation=f),
            adntn.Block({"matrix": "y r2", "shared": "z c1 q c2", "vector": "q"}),
        ],
        sizes=CUSTOM_SIZES,
        output="r2 r1 | c1 c2",
    ),
}
CUSTOM_SIZES = {"a": 2, "b": 3, "c": 4, "x": 3, "y": 2, "z": 3, "q": 2, "r1": 4, "r2": 4, "c1": 4, "c2": 3}
#: Rows of which an option is made for SHAPE.
ONLY_THAT_SHAPE = ("TTN, bonds per level", "TTN, factors", "AugmentedTTN, two boundaries, mixing", "Custom")

SHAPE = (16, 12)
SHAPES = [(8, 8), (12, 10), (5, 7, 3), (30,), (11, 13), (1, 6), (2, 3, 1, 2, 2, 3), (64, 27)]
#: Array libraries, as autoray names them; "numpy" is always there.
LIBRARIES = ("numpy", "torch", "jax", "cupy", "array_api_strict")
#: Of the topologies, those that JAX runs too: it compiles every step anew, which takes seconds for each network.
COMPILED = ("TTN, split", "MERA, periodic, mixing", "Brickwall, shared, batch", "LowRank", "Custom")
ON_LIBRARIES = [
    (library, topology) for library in LIBRARIES for topology in TOPOLOGIES if library != "jax" or topology in COMPILED
]

#: How the layers of torch and JAX generate weights of any shape; each activation stands on some state.
LAYER_TOPOLOGIES: dict[str, adntn.Options] = {
    "TTN": adntn.TTN.options(bond=2),
    "TTN, activation on the weight": adntn.TTN.options(bond=2, last_activation="tanh"),
    "TTN, shared, gelu": adntn.TTN.options(bond=3, leg=1, share="level", activation="gelu", layout="interleaved"),
    "AugmentedTTN": adntn.AugmentedTTN.options(bond=2, mixing_activation="silu"),
    "MERA": adntn.MERA.options(bond=2, mixing_activation="tanh"),
    "Brickwall": adntn.Brickwall.options(depth=2, activation="sin"),
    "TensorTrain": adntn.TensorTrain.options(bond=3),
    "LowRank": adntn.LowRank.options(rank=3),
    "Tucker": adntn.Tucker.options(rank=2),
}

#: How layers of JAX compute and who differentiates them: all that goes together.
WAYS: dict[str, dict[str, Any]] = {
    "materialise, native": {"schedule": "materialise", "differentiation": "native"},
    "materialise, adjoint": {"schedule": "materialise", "differentiation": "adjoint"},
    "recompute": {"schedule": "recompute"},
    "stream": {"schedule": "stream", "differentiation": "adjoint"},
    "contract": {"schedule": "contract"},
    "auto": {"schedule": "auto"},
    "auto, with a limit": {"schedule": "auto", "memory_limit": 2**20},
}


def fits(topology: str, shape: tuple[int, ...]) -> bool:
    """Whether a row can make weights of a shape."""
    if topology in ONLY_THAT_SHAPE:
        return shape == SHAPE
    if topology.startswith("LowRank"):
        return len(shape) > 1
    if topology.startswith("Tucker"):
        return len(shape) == 2 or "batch" in topology
    return True


def in_ways(layers: Mapping[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Rows of layers and ways: each layer in two ways, and the first one and one with groups in every way.

    A way is how a weight comes about, a kind of layer what is done with it; where they meet is whether the weight is a
    matrix, and its groups.
    """
    thorough = {next(iter(layers)), next(name for name in layers if "groups" in name)}
    return {
        f"{layer}, {way}": (layers[layer], WAYS[way])
        for layer in layers
        for way in WAYS
        if layer in thorough or way in ("materialise, native", "stream")
    }
