"""The weight of every topology, activation, shape, array library and number type is that of plain einsums."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from helpers import HOLOMORPHIC, compiled, generic_cores, in_library, reference_weight, relative_error, tolerance
from matrix import ONLY_THAT_SHAPE, SHAPE, SHAPES, TOPOLOGIES, fits

import adntn
from adntn.arrays import SHORT_DTYPES
from adntn.verification.tolerance import EPSILON

Topology = Callable[[str], adntn.Options]
EVERY_SHAPE = [(name, shape) for name in TOPOLOGIES for shape in SHAPES if fits(name, shape)]


def test_every_activation_of_every_topology_generates_the_weight_by_definition(
    topology: Topology, activation: str
) -> None:
    generator = topology(activation)(SHAPE)
    cores = generic_cores(generator)
    assert relative_error(generator.weight(cores), reference_weight(generator, cores)) < tolerance("float64")


@pytest.mark.parametrize(("name", "shape"), EVERY_SHAPE, ids=[f"{name}-{shape}" for name, shape in EVERY_SHAPE])
def test_every_shape_is_generated(name: str, shape: tuple[int, ...]) -> None:
    generator = TOPOLOGIES[name]("tanh")(shape)
    cores = generic_cores(generator)
    weight = generator.weight(cores)
    assert weight.shape == generator.shape == ((3, *shape) if "batch" in name else shape)
    assert relative_error(weight, reference_weight(generator, cores)) < tolerance("float64")


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_every_library_generates_the_same_weight_in_its_own_arrays(
    library_and_topology: tuple[str, Topology], dtype: str
) -> None:
    library, topology = library_and_topology
    generator = topology("gelu" if dtype == "float32" else "tanh")(SHAPE)
    cores = generic_cores(generator, dtype=dtype)
    own = in_library(cores, library)
    weight = compiled(library, generator.weight)(own)
    assert type(weight) is type(own["scale"])
    assert weight.dtype == own["scale"].dtype
    assert relative_error(weight, reference_weight(generator, cores)) < tolerance(dtype)


@pytest.mark.parametrize("activation", HOLOMORPHIC)
def test_complex_cores_generate_complex_weights(topology: Topology, activation: str) -> None:
    generator = topology(activation)(SHAPE)
    cores = generic_cores(generator, dtype="complex128")
    weight = generator.weight(cores)
    assert np.abs(weight.imag).max() > 0.01
    assert relative_error(weight, reference_weight(generator, cores)) < tolerance("complex128")


@pytest.mark.parametrize("dtype", SHORT_DTYPES)
def test_short_numbers_are_rounded_once(library_and_topology: tuple[str, Topology], dtype: str) -> None:
    library, topology = library_and_topology
    generator = topology("tanh")(SHAPE)
    if (library, dtype) == ("cupy", "bfloat16"):
        pytest.skip("some versions of CuPy have bfloat16, some have not")
    taught = "ml_dtypes" in sys.modules  # which gives NumPy bfloat16; JAX imports it
    if library == "array_api_strict" or (library == "numpy" and dtype == "bfloat16" and not taught):
        with pytest.raises(ValueError, match=f"dtype '{dtype}' is unknown to {library}"):
            generator.init(0, backend=library, dtype=dtype)
        return
    cores = generator.init(0, backend=library, dtype=dtype)
    weight = compiled(library, generator.weight)(cores)
    assert weight.dtype == cores["scale"].dtype
    assert relative_error(weight, reference_weight(generator, cores)) < EPSILON[dtype]


@pytest.mark.parametrize("shape", [(4096, 25088), (512, 512, 3, 3), (1000, 4096), (30522, 384)])
@pytest.mark.parametrize("constructor", [adntn.TTN, adntn.AugmentedTTN, adntn.MERA], ids=lambda one: one.name)
def test_large_layers_are_networks_of_a_few_thousand_parameters(
    constructor: adntn.Topology, shape: tuple[int, ...]
) -> None:
    generator = constructor(shape, bond=2)
    assert generator.shape == shape
    assert generator.parameters == sum(int(np.prod(core)) for core in generator.core_shapes.values()) < 3000
    assert generator.network.layout.padding < 0.01
    assert generator.report().forward.operations > generator.report().weights


@pytest.mark.parametrize("name", ["TTN, batch", "MERA, shared, batch", "Brickwall, shared, batch", "Tucker, batch"])
def test_a_batch_is_that_many_weights(name: str) -> None:
    generator = TOPOLOGIES[name]("tanh")(SHAPE)
    cores = generic_cores(generator)
    options = TOPOLOGIES[name]("tanh")
    single = options.topology(SHAPE, **{**dict(options.arguments), "batch": None})
    weights = generator.weight(cores)
    assert weights.shape == (3, *SHAPE)
    for one in range(3):
        alone = single.weight({key: core[one] for key, core in cores.items()})
        assert relative_error(weights[one], alone) < tolerance("float64")


def test_the_rows_of_the_matrix_of_topologies_differ() -> None:
    networks = [options("tanh")(SHAPE).network for options in TOPOLOGIES.values()]
    assert len(set(networks)) == len(networks)
    assert set(ONLY_THAT_SHAPE) < set(TOPOLOGIES)
