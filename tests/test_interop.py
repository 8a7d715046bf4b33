"""tensornetwork and quimb as independent opinions on what a network is, and networks of theirs as generators."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import autoray
import numpy as np
import pytest
from helpers import relative_error

import adntn
from adntn import arrays, interop
from adntn.arrays import namespace_of
from adntn.interop import ExportedBlock
from adntn.interop.blocks import named_levels

#: Agreement in double precision, relative to the norm: some thousand epsilons, for up to a hundred contractions.
TOLERANCE = 1e-12

LINEAR = {
    "TTN": adntn.TTN((24, 20), bond=3, activation="identity"),
    "TTN, ternary, interleaved, cropped": adntn.TTN((11, 13), arity=3, activation="identity", layout="interleaved"),
    "TTN, a kernel": adntn.TTN((6, 4, 3, 3), bond=2, activation="identity"),
    "TTN, shared in a level": adntn.TTN((16, 16), leg=2, share="level", activation="identity"),
    "TTN, shared everywhere": adntn.TTN((16, 16), leg=2, share="all", activation="identity"),
    "AugmentedTTN": adntn.AugmentedTTN((16, 12), leg=2, activation="identity"),
    "MERA": adntn.MERA((16, 16), leg=2, bond=3, activation="identity"),
    "MERA, periodic": adntn.MERA((8, 8), leg=2, border="periodic", activation="identity"),
    "MERA, ternary, shared": adntn.MERA((16, 16), leg=2, arity=3, share="level", activation="identity"),
    "Brickwall": adntn.Brickwall((8, 12), depth=3, activation="identity"),
    "TensorTrain": adntn.TensorTrain((16, 18), bond=3),
    "TensorTrain, chained operators": adntn.TensorTrain((8, 8), bond=[3, 2], depth=2, activation="identity"),
    "LowRank": adntn.LowRank((9, 7), rank=3),
    "Tucker": adntn.Tucker((6, 5, 4), rank=(3, 2, 4)),
    "Custom, a leg passes by, a label comes again": adntn.Custom(
        (6, 5),
        blocks=[adntn.Block({"top": "a b"}), adntn.Block({"one": "a c"}), adntn.Block({"two": "c a d"})],
        sizes={"a": 3, "b": 2, "c": 4, "d": 5},
        output="a b | d",
    ),
}
NONLINEAR = {
    "TTN": adntn.TTN((24, 20), bond=3, activation="silu"),
    "TTN, shared, activation on the weight": adntn.TTN((16, 16), leg=2, share="all", last_activation="sin"),
    "MERA, mixing activation": adntn.MERA((16, 12), leg=2, border="periodic", mixing_activation="tanh"),
    "Brickwall": adntn.Brickwall((8, 12), depth=3, activation="sin"),
    "TensorTrain": adntn.TensorTrain((8, 8), bond=3, depth=2),
    "Tucker": adntn.Tucker((6, 5, 4), rank=3, activation="tanh"),
}
BATCHED = {
    "TTN": adntn.TTN((16, 16), leg=2, batch=3),
    "MERA": adntn.MERA((8, 8), leg=2, batch=2, activation="identity"),
    "TensorTrain": adntn.TensorTrain((8, 8), bond=3, batch=2),
}


def random_cores(generator: adntn.Generator, dtype: str = "float64", seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    cores = {}
    for name, shape in generator.core_shapes.items():
        core = np.asarray(random.standard_normal(shape))
        core = core + 1j * random.standard_normal(shape) if dtype == "complex128" else core
        cores[name] = np.asarray(core / core.size**0.25)  # the states keep their size, and sin its range
    return cores


def integer_cores(generator: adntn.Generator) -> dict[str, Any]:
    """Small integers as float64: sums and products of these are exact, in whatever order."""
    random = np.random.default_rng(0)
    return {name: np.asarray(random.choice([-1.0, 1.0, 2.0], shape)) for name, shape in generator.core_shapes.items()}


def quimb_state(block: ExportedBlock, state: Any = None) -> Any:
    qtn = import_module("quimb.tensor")
    network = block.network if state is None else block.network | qtn.Tensor(state, inds=block.inputs)
    return network.contract(output_inds=block.outputs, optimize="greedy", preserve_tensor=True).data


def tensornetwork_state(block: ExportedBlock, state: Any = None) -> Any:
    tn = import_module("tensornetwork")
    nodes, edges = list(block.network), interop.open_edges(block.network)
    if state is not None:
        above = tn.Node(state, axis_names=list(block.inputs), backend=nodes[0].backend)
        for name in block.inputs:
            if name in edges:
                tn.connect(above[name], edges.pop(name))
            else:
                edges[name] = above[name]
        nodes.append(above)
    return tn.contractors.greedy(nodes, [edges[name] for name in block.outputs]).tensor


@dataclass(frozen=True)
class Tool:
    """A library with which to contract, and the way into it and back."""

    module: str
    blocks: Callable[..., tuple[ExportedBlock, ...]]
    network: Callable[..., ExportedBlock]
    state: Callable[..., Any]
    back: Callable[..., tuple[adntn.Generator, dict[str, Any]]]


TOOLS = {
    "quimb": Tool("quimb", interop.quimb_blocks, interop.quimb_network, quimb_state, interop.from_quimb),
    "tensornetwork": Tool(
        "tensornetwork",
        interop.tensornetwork_blocks,
        interop.tensornetwork_network,
        tensornetwork_state,
        interop.from_tensornetwork,
    ),
}


def installed(module: str) -> Any:
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed")


needs_quimb, needs_tensornetwork = installed("quimb"), installed("tensornetwork")
TOOL_PARAMETERS = [pytest.param(tool, id=name, marks=installed(tool.module)) for name, tool in TOOLS.items()]


def assembled(generator: adntn.Generator, state: Any) -> Any:
    """The weight without the scale, from the last state in row-major order."""
    lead = () if generator.network.batch is None else (generator.network.batch,)
    padded = state.reshape(lead + generator.network.layout.padded_shape)
    return padded[tuple(slice(0, size) for size in generator.shape)]


def final_state(tool: Tool, blocks: Sequence[ExportedBlock]) -> Any:
    """The last state of blocks that the tool contracts one by one, with the activations applied here."""
    state = None
    for block in blocks:
        state = tool.state(block, state)
        state = block.activation.function(namespace_of([state]), state)
    return state


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("tool", TOOL_PARAMETERS)
@pytest.mark.parametrize("generator", LINEAR.values(), ids=LINEAR)
def test_a_linear_generator_is_the_contraction_of_its_network(
    generator: adntn.Generator, tool: Tool, dtype: str
) -> None:
    cores = random_cores(generator, dtype)
    weight = assembled(generator, tool.state(tool.network(generator, cores)))
    assert weight.dtype == dtype
    assert relative_error(generator.weight(cores), weight) < TOLERANCE


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("tool", TOOL_PARAMETERS)
@pytest.mark.parametrize("generator", [*LINEAR.values(), *NONLINEAR.values()], ids=[*LINEAR, *NONLINEAR])
def test_a_generator_is_its_blocks_with_activations_between(generator: adntn.Generator, tool: Tool, dtype: str) -> None:
    cores = random_cores(generator, dtype)
    blocks = tool.blocks(generator, cores)
    assert [block.inputs for block in blocks[1:]] == [block.outputs for block in blocks[:-1]]
    assert blocks[-1].outputs == tuple(leg for legs in interop.output_legs(generator) for leg in legs)
    weight = cores["scale"] * assembled(generator, final_state(tool, blocks))
    assert relative_error(generator.weight(cores), weight) < TOLERANCE


@needs_quimb
@pytest.mark.parametrize("library", ["numpy", "array_api_strict"])
def test_what_quimb_registers_for_every_library_is_no_function_of_one(library: str) -> None:
    """quimb's `fuse` merges legs of an array; CuPy's makes one kernel of many."""
    pytest.importorskip(library)
    import_module("quimb.tensor")
    assert autoray.get_lib_fn(library, "fuse") is not None
    assert arrays._bind(library, is_complex=False).fuse is None


@needs_quimb
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("generator", BATCHED.values(), ids=BATCHED)
def test_quimb_contracts_a_batch_as_one_more_index(generator: adntn.Generator, dtype: str) -> None:
    cores = random_cores(generator, dtype)
    blocks = interop.quimb_blocks(generator, cores)
    state = final_state(TOOLS["quimb"], blocks)
    weight = cores["scale"].reshape(-1, 1, 1) * assembled(generator, state)
    assert relative_error(generator.weight(cores), weight) < TOLERANCE
    if all(block.activation.is_identity for block in blocks):
        one = interop.quimb_network(generator, cores)
        assert relative_error(assembled(generator, quimb_state(one)), weight) < TOLERANCE


def test_no_leg_is_exported_under_the_name_of_the_batch_axis() -> None:
    block = adntn.Block({"left": "r batch", "right": "batch c"})
    options = adntn.Custom.options(blocks=[block], sizes=(("r", 4), ("batch", 2), ("c", 3)), output="r | c")
    network = options((4, 3)).network
    assert named_levels(network)[0].places == (("left", ("r", "batch")), ("right", ("batch", "c")))
    object.__setattr__(network, "batch", 2)  # past the checks of a network, which may refuse such a leg
    assert named_levels(network)[0].places == (("left", ("r", "batch@0")), ("right", ("batch@0", "c")))


@needs_tensornetwork
@pytest.mark.parametrize("export", [interop.tensornetwork_blocks, interop.tensornetwork_network])
def test_tensornetwork_is_asked_for_no_batch(export: Callable[..., Any]) -> None:
    generator = BATCHED["MERA"]
    with pytest.raises(ValueError, match=r"batch axis of 2 weights.*use quimb, or"):
        export(generator, random_cores(generator))


@pytest.mark.parametrize("tool", TOOL_PARAMETERS)
def test_a_nonlinear_generator_is_not_one_network(tool: Tool) -> None:
    generator = NONLINEAR["Tucker"]
    with pytest.raises(ValueError, match=f"level 0 ends with tanh; use {tool.module}_blocks"):
        tool.network(generator, random_cores(generator))


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("tool", TOOL_PARAMETERS)
def test_cores_go_out_and_come_back_as_the_arrays_that_they_are(tool: Tool, library: str) -> None:
    pytest.importorskip(library)
    generator = LINEAR["MERA, ternary, shared"]
    cores = generator.init(0, backend=library)
    block = tool.network(generator, cores)
    assert relative_error(assembled(generator, tool.state(block)), generator.weight(cores)) < 1e-5
    block = tool.network(generator, cores)
    _, back = tool.back(block.network, interop.output_legs(generator))
    assert back.keys() == cores.keys()
    assert all(back[name] is core for name, core in cores.items())


@pytest.mark.parametrize("tool", TOOL_PARAMETERS)
def test_torch_differentiates_through_the_other_library(tool: Tool) -> None:
    torch = pytest.importorskip("torch")
    generator = LINEAR["MERA"]
    cores = {name: torch.from_numpy(core).requires_grad_() for name, core in random_cores(generator).items()}
    weight, pullback = generator.vjp({name: core.detach() for name, core in cores.items()})
    weight_bar = torch.from_numpy(np.random.default_rng(1).standard_normal(weight.shape))
    assembled(generator, tool.state(tool.network(generator, cores))).backward(weight_bar)
    for name, gradient in pullback(weight_bar).items():
        assert relative_error(cores[name].grad, gradient) < TOLERANCE, name


#: An activation of one's own that is exact on integers.
ABSOLUTE = adntn.Activation(
    "absolute", lambda xp, z: xp.where(z < 0, -z, z), lambda xp, z: xp.where(z < 0, xp.zeros_like(z) - 1, 1)
)
EXACT = LINEAR | {
    "TTN, absolute": adntn.TTN((16, 16), leg=2, activation=ABSOLUTE),
    "MERA, relu at the end": adntn.MERA(
        (16, 12), leg=2, mixing_activation=ABSOLUTE, activation=ABSOLUTE, last_activation="relu"
    ),
    "Brickwall, absolute": adntn.Brickwall((8, 12), depth=3, activation=ABSOLUTE, share="all"),
    "TensorTrain, absolute": adntn.TensorTrain((8, 8), bond=3, depth=2, activation=ABSOLUTE),
}


@pytest.mark.parametrize("tool", TOOL_PARAMETERS)
@pytest.mark.parametrize("generator", EXACT.values(), ids=EXACT)
def test_the_round_trip_block_by_block_is_exact(generator: adntn.Generator, tool: Tool) -> None:
    cores = integer_cores(generator)
    blocks = tool.blocks(generator, cores)
    again, back = tool.back(
        [block.network for block in blocks],
        interop.output_legs(generator),
        shape=generator.shape,
        activations=[block.activation for block in blocks],
        scale=cores["scale"],
    )
    assert again.network.topology == "Custom"
    assert again.core_shapes == generator.core_shapes
    assert all(back[name] is core for name, core in cores.items())
    assert np.any(generator.weight(cores))
    np.testing.assert_array_equal(again.weight(back), generator.weight(cores))


@pytest.mark.parametrize("tool", TOOL_PARAMETERS)
@pytest.mark.parametrize("generator", LINEAR.values(), ids=LINEAR)
def test_the_round_trip_through_one_network_is_exact(generator: adntn.Generator, tool: Tool) -> None:
    cores = integer_cores(generator)
    block = tool.network(generator, cores)
    again, back = tool.back(block.network, interop.output_legs(generator), shape=generator.shape)
    assert len(again.network.levels) == 1
    assert again.core_shapes == generator.core_shapes
    assert all(back[name] is core for name, core in cores.items())
    assert np.any(generator.weight(cores))
    np.testing.assert_array_equal(again.weight(back), generator.weight(cores))


@pytest.mark.parametrize("tool", TOOL_PARAMETERS)
def test_a_custom_generator_comes_back_as_itself(tool: Tool) -> None:
    generator = adntn.Custom(
        (6, 4),
        blocks=[
            adntn.Block({"top": "a b"}, activation="tanh"),
            adntn.Block([("mix", "a c"), ("mix", "b d")], activation="sin"),
            adntn.Block({"left": "c r1 c1 m", "right": "d r2 c2 m"}),
        ],
        sizes={"a": 2, "b": 2, "c": 2, "d": 2, "r1": 2, "r2": 3, "c1": 2, "c2": 2, "m": 3},
        output="r1 r2 | c1 c2",
    )
    blocks = tool.blocks(generator, random_cores(generator))
    again, _ = tool.back(
        [block.network for block in blocks], "r1 r2 | c1 c2", activations=[block.activation for block in blocks]
    )
    assert again == generator


# quimb's own networks


def quimb_mera(**options: Any) -> Any:
    return import_module("quimb.tensor").MERA.rand(8, **options)


def quimb_invariant_mera(**options: Any) -> Any:
    return import_module("quimb.tensor").MERA.rand_invar(8, dangle=True, **options)


def quimb_mps(**options: Any) -> Any:
    return import_module("quimb.tensor").MPS_rand_state(8, bond_dim=5, **options)


def quimb_ring(**options: Any) -> Any:
    return import_module("quimb.tensor").MPS_rand_state(6, bond_dim=3, cyclic=True, **options)


def quimb_tree(**options: Any) -> Any:
    edges = [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6), (5, 7), (5, 8)]
    return import_module("quimb.tensor").TN_from_edges_rand(edges, 3, phys_dim=2, seed=0, **options)


QUIMB_NETWORKS = [quimb_mera, quimb_invariant_mera, quimb_mps, quimb_ring, quimb_tree]


@needs_quimb
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("build", QUIMB_NETWORKS)
def test_a_network_of_quimb_generates_its_own_contraction(build: Callable[..., Any], dtype: str) -> None:
    network = build(dtype=dtype)
    legs = sorted(network.outer_inds())[::-1]  # not the network's own order
    generator, cores = interop.from_quimb(network, [legs[:3], legs[3:]])
    expected = network.contract(output_inds=legs, optimize="greedy").data.reshape(generator.shape)
    assert relative_error(generator.weight(cores), expected) < TOLERANCE
    assert {id(core) for name, core in cores.items() if name != "scale"} == {id(tensor.data) for tensor in network}


@needs_quimb
def test_a_scale_invariant_mera_keeps_its_shared_cores() -> None:
    network = quimb_invariant_mera()
    (top,) = {index for index in network.outer_inds() if not index.startswith("k")}
    generator, _ = interop.from_quimb(network, [["k0", "k1", "k2", "k3"], ["k4", "k5", "k6", "k7"], [top]])
    assert generator.core_shapes == {"_UNI": (2, 2, 2, 2), "_ISO": (2, 2, 2), "scale": ()}


@needs_quimb
def test_parametrised_tensors_of_quimb_become_cores_with_the_values_that_they_have() -> None:
    qtn = import_module("quimb.tensor")
    pair = [
        qtn.PTensor(np.tanh, np.full((2, 2), place + 1.0), inds, tags="P") for place, inds in enumerate(["ab", "bc"])
    ]
    generator, cores = interop.from_quimb(qtn.TensorNetwork(pair), "a | c")
    np.testing.assert_allclose(generator.weight(cores), np.full((2, 2), 2 * np.tanh(1) * np.tanh(2)), rtol=1e-14)


@needs_quimb
def test_quimbs_states_become_blocks_with_activations_between() -> None:
    qtn = import_module("quimb.tensor")
    state = qtn.MPS_rand_state(4, bond_dim=3)
    operator = qtn.MPO_rand(4, bond_dim=2)  # from k0 ... to b0 ...
    generator, cores = interop.from_quimb([state, operator], "b0 b1 | b2 b3", activations=["tanh", "identity"])
    middle = np.tanh(state.to_dense(["k0", "k1", "k2", "k3"]).reshape(16))
    expected = operator.to_dense(["b0", "b1", "b2", "b3"], ["k0", "k1", "k2", "k3"]) @ middle
    assert relative_error(generator.weight(cores), expected.reshape(4, 4)) < TOLERANCE


@needs_tensornetwork
@pytest.mark.parametrize("named", [True, False])
def test_edges_between_blocks_of_nodes_are_legs_of_the_state(named: bool) -> None:
    tn = import_module("tensornetwork")
    random = np.random.default_rng(0)
    top, left, right = (random.standard_normal(shape) for shape in [(2, 3, 4), (2, 5), (3, 5, 6)])
    nodes = [tn.Node(array, name=name) for array, name in [(top, "top"), (left, "left"), (right, "right")]]
    for one, other in [(nodes[0][0], nodes[1][0]), (nodes[0][1], nodes[2][0]), (nodes[1][1], nodes[2][1])]:
        tn.connect(one, other, name="bond0" if named else None)  # one name for all: it need not tell them apart
    output = [[nodes[2][2]], nodes[0][2]] if named else "right.2 | top.2"
    generator, cores = interop.from_tensornetwork([nodes[:1], nodes[1:]], output, activations=["tanh", "identity"])
    expected = np.einsum("abc,ax,bxy->yc", np.tanh(top), left, right)
    assert relative_error(generator.weight(cores), expected) < TOLERANCE


@pytest.mark.parametrize("tool", TOOL_PARAMETERS)
def test_an_imported_generator_is_cropped_to_a_given_shape_and_scaled(tool: Tool) -> None:
    generator = LINEAR["TensorTrain"]
    cores = random_cores(generator)
    blocks = tool.blocks(generator, cores)
    again, back = tool.back(
        [block.network for block in blocks], interop.output_legs(generator), shape=(13, 17), scale=np.asarray(2.5)
    )
    expected = 2.5 * generator.weight({**cores, "scale": np.ones(())})[:13, :17]
    assert relative_error(again.weight(back), expected) < TOLERANCE


@pytest.mark.parametrize("tool", TOOL_PARAMETERS)
def test_an_imported_generator_is_contracted_along_the_tools_own_path(tool: Tool) -> None:
    cotengra = pytest.importorskip("cotengra")
    generator = LINEAR["MERA"]
    cores = random_cores(generator)
    again, back = tool.back(tool.network(generator, cores).network, interop.output_legs(generator))
    optimiser = cotengra.HyperOptimizer(optlib="random", methods=["greedy"], max_repeats=4, parallel=False)
    assert relative_error(again.with_path(optimiser).weight(back), generator.weight(cores)) < TOLERANCE


def test_importing_adntn_imports_neither_library() -> None:
    code = "import sys, adntn.interop; print(sorted({'quimb', 'tensornetwork', 'cotengra'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
