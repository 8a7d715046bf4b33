"""Networks of quimb and tensornetwork that do not fit are refused, with the tensor and the leg in the message."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import adntn
from adntn import interop

needs_quimb, needs_tensornetwork = (
    pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed")
    for module in ("quimb", "tensornetwork")
)


def quimb_of(*tensors: tuple[tuple[int, ...], str] | tuple[tuple[int, ...], str, str]) -> Any:
    qtn = import_module("quimb.tensor")
    return qtn.TensorNetwork(
        [
            qtn.Tensor(np.ones(shape), inds=inds.split(), tags=tags or [f"t{place}"])
            for place, (shape, inds, *tags) in enumerate(tensors)
        ]
    )


PAIR = (((2, 3), "a b"), ((3, 4), "b c"))


def quimb_with_exponent() -> Any:
    network = quimb_of(*PAIR)
    network.exponent = 2.0
    return network


def quimb_with_space() -> Any:
    return quimb_of(*PAIR).reindex({"a": "a b"})


def quimb_of_integers() -> Any:
    network = quimb_of(((2, 3), "a b"))
    network.apply_to_arrays(lambda array: array.astype(np.int64))
    return network


def quimb_mixed() -> Any:
    network = quimb_of(*PAIR)
    network["t1"].modify(data=np.ones((3, 4), dtype=np.float32))
    return network


BAD_QUIMB: dict[str, tuple[Callable[[], Any], Any, dict[str, Any], type[Exception], str]] = {
    "dangling": (lambda: quimb_of(*PAIR), "a", {}, ValueError, "'t1' of block 0 has the open leg 'c'"),
    "unknown leg": (lambda: quimb_of(*PAIR), "a | c z", {}, ValueError, "'z', which is on no tensor.*a, c"),
    "summed leg": (lambda: quimb_of(*PAIR), "a b | c", {}, ValueError, "'b', which is summed over"),
    "leg twice": (lambda: quimb_of(*PAIR), "a | c a", {}, ValueError, "'a' 2 times"),
    "sizes": (
        lambda: quimb_of(((2, 3), "a b"), ((4, 4), "b c")),
        "a | c",
        {},
        ValueError,
        "'t1' of block 0 has the leg 'b' of size 4, but it is 3 in tensor 't0'",
    ),
    "sizes between blocks": (
        lambda: [quimb_of(((2, 3), "a b")), quimb_of(((4, 4), "b c", "next"))],
        "a | c",
        {},
        ValueError,
        "'next' of block 1 has the leg 'b' of size 4, but it is 3 in tensor 't0' of block 0",
    ),
    "hyperedge": (
        lambda: quimb_of(*PAIR, ((3, 5), "b d")),
        "a | c d",
        {},
        ValueError,
        "'b' joins more than two tensors: tensor 't0'.*'t1'.*'t2'",
    ),
    "hyperedge through the state": (
        lambda: [quimb_of(((2, 3), "a b")), quimb_of(((3, 4), "b c", "x"), ((3, 4), "b d", "y"))],
        "a | c d",
        {},
        ValueError,
        "'b' joins more than two tensors: tensor 't0' of block 0, tensor 'x' of block 1, tensor 'y'",
    ),
    "trace": (lambda: quimb_of(((2, 3, 3), "a b b")), "a", {}, ValueError, "'t0' of block 0 is joined to itself.*'b'"),
    "exponent": (
        quimb_with_exponent,
        "a | c",
        {},
        ValueError,
        r"block 0 holds 10\*\*2.0 outside.*distribute_exponent",
    ),
    "a tensor called scale": (
        lambda: quimb_of(((2, 3), "a b", "scale")),
        "a | b",
        {},
        ValueError,
        "'scale' of block 0 must be the number in front",
    ),
    "two scales": (
        lambda: quimb_of(*PAIR, ((), "", "scale")),
        "a | c",
        {"scale": np.ones(())},
        ValueError,
        "last block has a tensor 'scale'",
    ),
    "scale inside of an activation": (
        lambda: quimb_of(*PAIR, ((), "", "scale")),
        "a | c",
        {"activations": ["tanh"]},
        ValueError,
        "'scale' of block 0 must be.*no activation",
    ),
    "a scale with axes": (lambda: quimb_of(*PAIR), "a | c", {"scale": np.ones(3)}, ValueError, r"'scale'.*\(3,\)"),
    "activations": (
        lambda: quimb_of(*PAIR),
        "a | c",
        {"activations": ["tanh", "tanh"]},
        ValueError,
        "activations must be a sequence with one for each of the 1 blocks",
    ),
    "one activation, bare": (lambda: quimb_of(*PAIR), "a | c", {"activations": "tanh"}, ValueError, "a sequence"),
    "an activation without name": (lambda: quimb_of(*PAIR), "a | c", {"activations": ["Tanh"]}, ValueError, "'Tanh'"),
    "shape too large": (lambda: quimb_of(*PAIR), "a | c", {"shape": (3, 4)}, ValueError, "dimension 0.*at least 3"),
    "shape of another rank": (lambda: quimb_of(*PAIR), "a | c", {"shape": (8,)}, ValueError, "1 groups"),
    "no block": (list, "a | c", {}, ValueError, "at least one block"),
    "an empty block": (lambda: [quimb_of(*PAIR), quimb_of()], "a | c", {}, ValueError, "block 1 holds no tensor"),
    "no network": (lambda: [np.ones(3)], "a", {}, TypeError, "block 0 must be a quimb TensorNetwork, got ndarray"),
    "a leg with a space": (quimb_with_space, [["a b"], ["c"]], {}, ValueError, "'t0' of block 0.*'a b'"),
    "integers": (quimb_of_integers, "a | b", {}, TypeError, "int64"),
    "two number types": (quimb_mixed, "a | c", {}, TypeError, "tensors must share one dtype.*'t0'.*'t1'"),
}


@needs_quimb
@pytest.mark.parametrize(("build", "output", "options", "error", "words"), BAD_QUIMB.values(), ids=BAD_QUIMB)
def test_a_quimb_network_that_does_not_fit_is_refused(
    build: Callable[[], Any], output: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        interop.from_quimb(build(), output, **options)


def nodes_of(*shapes: tuple[int, ...], names: Sequence[str] = "xyz") -> list[Any]:
    tn = import_module("tensornetwork")
    return [tn.Node(np.ones(shape), name=name) for shape, name in zip(shapes, names, strict=False)]


def traced_nodes() -> Any:
    (node,) = nodes_of((2, 3, 3))
    node.edges[1] ^ node.edges[2]
    return [node]


def nodes_with_a_neighbour_left_out() -> Any:
    one, other = nodes_of((2, 3), (3, 4))
    one[1] ^ other[0]
    return [one]


def nodes_with_a_copy_node() -> Any:
    tn = import_module("tensornetwork")
    one, other = nodes_of((2, 3), (3, 4))
    copy = tn.CopyNode(3, 3, name="copy")
    copy[0] ^ one[1]
    copy[1] ^ other[0]
    return [one, other, copy]


def nodes_with_one_name_for_two_edges() -> Any:
    one, other = nodes_of((2, 3), (2, 4))
    one[0].name = other[0].name = "a"
    return [one, other]


def a_node_twice() -> Any:
    (node,) = nodes_of((2, 3))
    return [[node], [node]]


BAD_NODES: dict[str, tuple[Callable[[], Any], Any, type[Exception], str]] = {
    "dangling": (lambda: nodes_of((2, 3)), "x.0", ValueError, "'x' of block 0 has the open leg 'x.1'"),
    "trace": (traced_nodes, "x.0", ValueError, "node 'x' of block 0.*axis 1 joins the node to itself"),
    "a neighbour left out": (
        nodes_with_a_neighbour_left_out,
        "x.0",
        ValueError,
        "node 'x' of block 0.*axis 1 leads to node 'y', which is not among",
    ),
    "hyperedge": (nodes_with_a_copy_node, "x.0", ValueError, "'copy' of block 0 is a copy node"),
    "one name for two edges": (
        nodes_with_one_name_for_two_edges,
        "a",
        ValueError,
        "'y'.*edge 'a', and so has node 'x'",
    ),
    "one name for two nodes": (
        lambda: nodes_of((2, 3), (4, 5), names="xx"),
        "x.0 | x.1",
        ValueError,
        "'x' of block 0.*dangling edge 'x.0', and so has node 'x'",
    ),
    "a node twice": (a_node_twice, "x.0 | x.1", ValueError, "node 'x' is given twice"),
    "no node": (lambda: [[np.ones(3)]], "a", TypeError, "block 0 must hold tensornetwork nodes, got ndarray"),
    "another network's edge": (
        lambda: nodes_of((2, 3)),
        lambda: [nodes_of((2, 3))[0][0]],
        ValueError,
        "output names the edge .*which no node has",
    ),
}


@needs_tensornetwork
@pytest.mark.parametrize(("build", "output", "error", "words"), BAD_NODES.values(), ids=BAD_NODES)
def test_nodes_that_do_not_fit_are_refused(
    build: Callable[[], Any], output: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        interop.from_tensornetwork(build(), output() if callable(output) else output)


@needs_tensornetwork
def test_nodes_of_one_name_with_different_tensors_are_refused() -> None:
    one, other = nodes_of((2, 3), (3, 4), names="xx")
    one[1] ^ other[0]
    with pytest.raises(ValueError, match="'x' of block 0 has the name of another, different tensor"):
        interop.from_tensornetwork([one, other], [one[0], other[1]])


@needs_tensornetwork
def test_arrays_that_tensornetwork_does_not_know_are_refused() -> None:
    pytest.importorskip("array_api_strict")
    generator = adntn.LowRank((4, 3), rank=2)
    with pytest.raises(ValueError, match=r"numpy, torch, jax.*cores are of array_api_strict"):
        interop.tensornetwork_network(generator, generator.init(0, backend="array_api_strict"))


@pytest.mark.parametrize("module", ["quimb.tensor", "tensornetwork"])
def test_a_library_that_is_not_installed_is_named_with_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    library = module.partition(".")[0]
    generator = adntn.LowRank((4, 3), rank=2)
    for name, arguments in {
        f"{library}_blocks": (generator, generator.init(0)),
        f"{library}_network": (generator, generator.init(0)),
        f"from_{library}": ([], "a"),
    }.items():
        with pytest.raises(ImportError, match=rf'pip install "adntn\[{library}\]"'):
            getattr(interop, name)(*arguments)
