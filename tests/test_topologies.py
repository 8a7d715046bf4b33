"""Constructors: what they store at the paper's scale, their options, sharing, structure, and what they refuse."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matrix import SHAPE, TOPOLOGIES

import adntn

Topology = Callable[[str], adntn.Options]


def disentanglers(generator: adntn.Generator) -> list[str]:
    return [core.name for core in generator.network.cores if core.start == "identity"]


# Counted by hand for 4096 x 4096 with bond 2 and legs of 2: a top core of 2 x 2 (x 2) and the levels below it; legs of
# 24, 12, 6, 3: isometries of 2 x 2 x 2 for 3 + 6 + 12 legs, and disentanglers of 16 on 11, 5 and 11 + 5 + 2 borders.
PAPER = {
    "TTN": (adntn.TTN, 8 + (3 + 6 + 12) * 8 + 1),
    "AugmentedTTN": (adntn.AugmentedTTN, 8 + (3 + 6 + 12) * 8 + 11 * 16 + 1),
    "MERA": (adntn.MERA, 8 + (3 + 6 + 12) * 8 + (2 + 5 + 11) * 16 + 1),
}


@pytest.mark.parametrize(("constructor", "parameters"), PAPER.values(), ids=PAPER)
def test_a_large_layer_stores_the_papers_few_hundred_numbers(constructor: adntn.Topology[Any], parameters: int) -> None:
    generator = constructor((4096, 4096), bond=2)
    assert generator.parameters == parameters
    assert generator.ratio == 4096**2 / parameters > 36_000


def test_parameters_span_the_papers_range() -> None:
    for constructor, bonds in ((adntn.TTN, range(2, 12)), (adntn.MERA, range(2, 6))):
        generators = [constructor((4096, 4096), bond=bond) for bond in bonds]
        assert all(177 <= generator.parameters <= 8_000 for generator in generators)
        assert all(2_000 < generator.ratio < 95_000 for generator in generators)


def test_a_two_core_block_is_low_rank_adaptation() -> None:
    generator = adntn.LowRank((6, 4, 2), rank=3)
    cores = generator.init(0, dtype="float64")
    expected = np.einsum("or,rij->oij", cores["left"], cores["right"]) * cores["scale"]
    np.testing.assert_allclose(generator.weight(cores), expected, rtol=1e-13)


def test_disentanglers_stand_on_the_borders_of_parents() -> None:
    options: dict[str, Any] = {"bond": 2, "leg": 1}
    assert disentanglers(adntn.TTN((16, 16), **options)) == []
    assert len(disentanglers(adntn.AugmentedTTN((16, 16), **options))) == 3
    assert len(disentanglers(adntn.AugmentedTTN((16, 16), boundaries=[3], **options))) == 1
    assert len(disentanglers(adntn.MERA((16, 16), **options))) == 3 + 1
    assert len(disentanglers(adntn.MERA((16, 16), border="periodic", **options))) == 4 + 2


def test_shared_cores_are_stored_once() -> None:
    counts = [adntn.MERA((256, 256), bond=2, leg=1, share=share).parameters for share in (None, "level", "all")]
    assert counts[0] > counts[1] > counts[2]
    assert adntn.MERA((256, 256), bond=2, leg=1, share="all").core_shapes.keys() == {
        "top",
        "isometry-2x2x2",
        "disentangler-2x2x2x2",
        "scale",
    }


def test_bonds_are_never_larger_than_the_legs_below_can_carry() -> None:
    generator = adntn.TTN((8, 8), bond=1000, leg=1)
    assert max(max(shape, default=1) for shape in generator.core_shapes.values()) <= 8


def test_each_level_may_have_its_own_bond_and_activation() -> None:
    generator = adntn.TTN((64, 64), bond=(3, 2), leg=1, activation=["sin"], last_activation="tanh")
    levels = generator.network.levels
    assert [str(level.activation) for level in levels] == ["identity", "sin", "tanh"]
    assert generator.core_shapes["top"] == (3, 3, 3)
    assert generator.core_shapes["level1/isometry0"] == (3, 2, 2)


def test_mixing_activations_stand_between_isometries_and_disentanglers() -> None:
    plain = adntn.MERA((64, 64), leg=1)
    mixing = adntn.MERA((64, 64), leg=1, mixing_activation="sin")
    assert mixing.parameters == plain.parameters
    assert len(mixing.network.levels) == len(plain.network.levels) + 2


def test_a_brickwall_starts_from_a_product_state() -> None:
    generator = adntn.Brickwall((16, 16), depth=2)
    shapes = generator.core_shapes
    assert [shapes[f"block0/gatea{place}"] for place in range(4)] == [(2, 2)] * 4
    assert [shapes[f"block0/gateb{place}"] for place in range(3)] == [(2, 2, 2, 2)] * 3
    assert generator.parameters == 4 * 4 + 3 * 16 + (4 + 3) * 16 + 1


def test_options_are_values(topology: Topology) -> None:
    options, again = topology("tanh"), topology("tanh")
    assert options == again
    assert hash(options) == hash(again)
    assert pickle.loads(pickle.dumps(options)) == options
    generator = options(SHAPE)
    assert generator == again(SHAPE)
    assert hash(generator) == hash(again(SHAPE))
    assert pickle.loads(pickle.dumps(generator)) == generator
    assert str(options).startswith(options.topology.name + "(")


def test_printed_generators_say_what_they_are(topology: Topology) -> None:
    generator = topology("tanh")(SHAPE)
    text = str(generator)
    assert text.startswith(f"{generator.network.topology}: ")
    assert f"16 x 12 from {generator.parameters:,} parameters" in text
    assert "level 0" in text


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a bond of 0": (lambda: adntn.TTN((64, 64), bond=0), ValueError, "bond.*at least 1, got 0$"),
    "a bond of 0 in a level": (
        lambda: adntn.TTN((64, 64), leg=1, bond=[2, 0]),
        ValueError,
        "bond.*at least 1, got 0 at level 1",
    ),
    "a fractional bond": (lambda: adntn.MERA((64, 64), bond=2.5), ValueError, "bond.*2.5"),
    "too many bonds": (lambda: adntn.TTN((64, 64), leg=1, bond=[2] * 5), ValueError, "bond.*sequence of 2.*got 5"),
    "an unknown activation": (
        lambda: adntn.TTN((64, 64), activation="swish"),
        ValueError,
        "activation must be one of identity, tanh.*got 'swish'",
    ),
    "an unknown last activation": (lambda: adntn.LowRank((4, 4), last_activation="?"), ValueError, "got '?'"),
    "a function where one level takes none": (
        lambda: adntn.TTN((4, 4), activation=np.tanh),
        TypeError,
        "activation must be a name or an adntn.Activation, got <ufunc 'tanh'>",
    ),
    "no activation": (lambda: adntn.Tucker((4, 4), activation=None), TypeError, "activation.*None"),
    "arity 1": (lambda: adntn.TTN((64, 64), arity=1), ValueError, "arity must be an integer of at least 2, got 1"),
    "a MERA of arity 4": (lambda: adntn.MERA((64, 64), arity=4), ValueError, "arity must be one of 2, 3, got 4"),
    "a border": (lambda: adntn.MERA((64, 64), border="closed"), ValueError, "border.*'open', 'periodic'.*'closed'"),
    "a boundary inside a parent": (
        lambda: adntn.AugmentedTTN((16, 16), leg=1, boundaries=[0]),
        ValueError,
        r"boundaries.*\(1, 3, 5\), got 0",
    ),
    "a boundary of a tree without levels": (
        lambda: adntn.AugmentedTTN((4, 4), bond=4, boundaries=[1]),
        ValueError,
        "boundaries.*no level",
    ),
    "a boundary that is no list": (
        lambda: adntn.AugmentedTTN((16, 16), boundaries=3),
        ValueError,
        "list of leaves, got 3",
    ),
    "a share": (lambda: adntn.TTN((64, 64), share="most"), ValueError, "share.*'most'"),
    "a batch of 0": (lambda: adntn.TTN((64, 64), batch=0), ValueError, "batch must be a positive integer.*0"),
    "a depth of 0": (lambda: adntn.Brickwall((64, 64), depth=0), ValueError, "depth.*at least 1, got 0"),
    "a rank of 0": (lambda: adntn.LowRank((64, 64), rank=0), ValueError, "rank.*at least 1, got 0"),
    "a low rank of a vector": (lambda: adntn.LowRank((64,)), ValueError, "at least 2 dimensions"),
    "an unknown option": (lambda: adntn.TTN.options(bonds=2), TypeError, "TTN.*'bonds'.*its options are bond, arity"),
    "an unknown option, with a shape": (lambda: adntn.TTN((8, 8), bonds=2), TypeError, "its options are bond, arity"),
    "a library by another name": (
        lambda: adntn.TTN((8, 8)).init(backend="pytorch"),
        ImportError,
        "did you mean 'torch'",
    ),
}


@pytest.mark.parametrize(("build", "error", "words"), BAD.values(), ids=BAD)
def test_bad_options_are_named(build: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words.replace("'?'", r"'\?'")):
        build()


def custom(
    blocks: Any = None,
    sizes: Any = None,
    output: str = "r | c",
    shape: tuple[int, ...] = (3, 4),
    batch: int | None = None,
) -> adntn.Generator:
    default = [adntn.Block({"left": "r b", "right": "b c"})]
    return adntn.Custom(
        shape, blocks=blocks or default, sizes=sizes or {"r": 3, "c": 4, "b": 2}, output=output, batch=batch
    )


BAD_BLOCKS: dict[str, tuple[dict[str, Any], str]] = {
    "a label without a size": ({"sizes": {"r": 3, "c": 4}}, "sizes lacks the label 'b' of core 'left' of block 0"),
    "a size of 0": ({"sizes": {"r": 3, "c": 4, "b": 0}}, "'b' must be an integer of at least 1, got 0"),
    "a group too few": ({"output": "r c"}, "output must have 2 groups"),
    "a leg left out": (
        {"output": "r | b", "shape": (3, 2)},
        "output must name the legs that the last block leaves, r c; got r b",
    ),
    "a product too small": ({"shape": (5, 4)}, r"output 'r \| c' gives dimension 0 legs of \[3\].*at least 5"),
    "a leg of three": (
        {"blocks": [adntn.Block({"left": "r b", "right": "b c", "third": "b"})]},
        "leg b in level 0 joins more than two tensors",
    ),
    "a leg on itself": (
        {"blocks": [adntn.Block({"left": "r b b", "right": "c"})]},
        "level 0 joins a leg of a tensor to itself: r b b",
    ),
    "a program's name": (
        {"blocks": [adntn.Block({"X0": "r b", "right": "b c"})]},
        "core name 'X0' is reserved",
    ),
    "a step's name": ({"blocks": [adntn.Block({"level0/part0": "r b", "right": "b c"})]}, "'level0/part0' is reserved"),
    "an adjoint's name": ({"blocks": [adntn.Block({"left": "r b", "left_bar": "b c"})]}, "'left_bar' is reserved"),
    "a dot": ({"blocks": [adntn.Block({"left.x": "r b", "right": "b c"})]}, "'left.x' is reserved.*a dot"),
    "the batch's label": (
        {
            "blocks": [adntn.Block({"left": "r batch", "right": "batch c"})],
            "sizes": {"r": 3, "c": 4, "batch": 2},
            "batch": 2,
        },
        "no leg may be called 'batch'.*level 0",
    ),
    "the scale's name": ({"blocks": [adntn.Block({"scale": "r b", "right": "b c"})]}, "'scale' is taken"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_BLOCKS.values(), ids=BAD_BLOCKS)
def test_blocks_that_do_not_fit_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        custom(**arguments)


def test_no_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        adntn.Custom((3, 4), blocks=[], sizes={}, output="r | c")


@pytest.mark.parametrize("blocks", [adntn.Block({"left": "r c"}), [{"left": "r c"}]], ids=["one block", "a mapping"])
def test_blocks_of_another_type_are_refused(blocks: Any) -> None:
    with pytest.raises(TypeError, match="sequence of adntn"):
        adntn.Custom((3, 4), blocks=blocks, sizes={"r": 3, "c": 4}, output="r | c")


def test_lists_mappings_and_numpys_numbers_are_the_same_options() -> None:
    given = adntn.TTN((64, 64), bond=np.array([3, 2]), leg=1, batch=np.int64(2), activation=["sin"])
    assert given == adntn.TTN((64, 64), bond=(3, 2), leg=1, batch=2, activation=("sin",))
    sizes = {"r": 3, "c": 4, "b": 2}
    block = adntn.Block({"left": "r b", "right": "b c"})
    options = adntn.Custom.options(blocks=[block], sizes=sizes, output="r | c")
    kept = hash(options)
    sizes["r"] = 30
    assert hash(options) == kept
    assert options((3, 4)) == custom()


def test_every_constructor_stands_in_the_matrix() -> None:
    constructors = {name for name in adntn.__all__ if isinstance(getattr(adntn, name), adntn.Topology)}
    assert {row.split(",")[0] for row in TOPOLOGIES} == constructors
