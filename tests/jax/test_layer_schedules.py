"""Schedules of JAX layers: contractions without the weight, choices that keep to their limit, compiled in little."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from helpers import generic_cores, in_library, random_array, relative_error
from jaxprs import equations
from matrix import COMPILED, LAYER_TOPOLOGIES, ONLY_THAT_SHAPE, TOPOLOGIES

import adntn
from adntn.machine import DEFAULT
from adntn.program.schedule import FEW_BYTES, SCHEDULES, Choice, choose
from adntn.program.task import Task
from adntn_jax.contracting import contracted
from adntn_jax.schedule import scheduling

#: For `contracted`: nothing is cut into slabs, slabs of several rows with a rest, slabs of single rows.
LARGEST = (2**19, 200, 1)
LINEAR = {
    "TTN, linear": adntn.TTN.options(bond=2, activation="identity"),
    "MERA": adntn.MERA.options(bond=2, activation="tanh"),
    "TensorTrain": adntn.TensorTrain.options(bond=3),
    "LowRank": adntn.LowRank.options(rank=3),
}
LARGE = adntn.TTN((1024, 1024), bond=2)
LARGE_LINEAR = adntn.TTN((1024, 1024), bond=2, activation="identity")


def square(y: jax.Array) -> jax.Array:
    return (y * y.conj()).real.sum()


def value_and_gradients(make: Callable[..., jax.Array], generator: adntn.Generator, dtype: str) -> Any:
    """Of the square of a product, at cores and an x of this number type."""
    cores = in_library(generic_cores(generator, 0, dtype), "jax")
    x = jnp.asarray(random_array((2, 7, generator.shape[1]), 5, dtype))
    return jax.jit(jax.value_and_grad(lambda cores, x: square(make(cores, x)), argnums=(0, 1)))(cores, x)


@cache
def products_with_the_weight(generator: adntn.Generator, dtype: str) -> Any:
    """The same from the weight: compiled once, for all sizes of slabs."""
    return value_and_gradients(lambda cores, x: x @ generator.weight(cores).T, generator, dtype)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("largest", LARGEST)
@pytest.mark.parametrize("options", LINEAR.values(), ids=LINEAR.keys())
def test_contractions_are_products_with_the_weight(options, largest, dtype, assert_agree):
    generator = options((23, 12))
    own = value_and_gradients(lambda cores, x: contracted(generator, cores, x, largest), generator, dtype)
    expected = products_with_the_weight(generator, dtype)
    assert_agree(own, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", LINEAR.values(), ids=LINEAR.keys())
def test_mapped_contractions_are_those_of_the_batch_and_gradients_of_each_example_its_own(options, assert_agree):
    generator = options((23, 12))
    cores, x = in_library(generic_cores(generator), "jax"), jnp.asarray(random_array((5, 12), 5))

    def each(make: Callable[..., jax.Array]) -> Any:
        gradient = jax.grad(lambda cores, x: square(make(cores, x)), argnums=(0, 1))
        of_each = jax.vmap(gradient, (None, 0))
        of_all = jax.grad(lambda cores, x: square(jax.vmap(make, (None, 0))(cores, x)), argnums=(0, 1))
        return jax.jit(lambda cores, x: (of_each(cores, x), of_all(cores, x)))(cores, x)

    assert_agree(each(partial(contracted, generator)), each(lambda cores, x: x @ generator.weight(cores).T))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("largest", LARGEST)
def test_contractions_are_differentiated_forward_too(largest, assert_agree):
    generator = LINEAR["MERA"]((23, 12))
    cores, direction = (in_library(generic_cores(generator, seed), "jax") for seed in (0, 1))
    x = jnp.asarray(random_array((7, 12), 5))
    own, expected = (
        jax.jit(lambda cores, direction, make=make: jax.jvp(make, (cores,), (direction,)))(cores, direction)
        for make in (
            lambda cores: contracted(generator, cores, x, largest),
            lambda cores: x @ generator.weight(cores).T,
        )
    )
    assert_agree(own, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_contractions_of_short_numbers_are_rounded_once(dtype):
    generator = LINEAR["MERA"]((23, 12))
    cores = generator.init(backend="jax", dtype=dtype)
    x = jnp.asarray(random_array((7, 12), 5), dtype)
    wide_cores, wide_x = jax.tree.map(lambda array: array.astype("float64"), (cores, x))
    y = contracted(generator, cores, x)
    assert y.dtype == dtype
    expected = wide_x @ generator.weight(wide_cores).T
    assert relative_error(y.astype("float64"), expected) <= float(jnp.finfo(dtype).eps)


def gradient_program(generator: adntn.Generator, rows: int, largest: int = 2**19, mapped: bool = False) -> list[Any]:
    make = partial(contracted, generator, largest=largest)
    product = jax.vmap(make, (None, 0)) if mapped else make
    cores = jax.eval_shape(partial(generator.init, backend="jax"))
    x = jnp.ones((rows, generator.shape[1]))
    program = jax.make_jaxpr(jax.grad(lambda cores, x: (jnp.sin(product(cores, x)) ** 2).sum(), (0, 1)))(cores, x)
    return list(equations(program.jaxpr))


def test_slabs_are_a_loop_that_is_compiled_once():
    few, many = (len(gradient_program(LARGE_LINEAR, rows, 2**14)) for rows in (64, 256))
    assert many == few


@pytest.mark.parametrize("mapped", [False, True])
def test_contractions_hold_neither_the_weight_nor_gradients_of_cores_for_each_example(mapped):
    rows, generator = 64, adntn.LowRank((1024, 512), rank=16)
    sizes = [variable.aval.size for one in gradient_program(generator, rows, mapped=mapped) for variable in one.outvars]
    assert max(sizes) == rows * 1024  # y; a core has 512 * 16 numbers


def scheduled(generator: adntn.Generator, memory_limit: int | None = None, rows: int = 16, **options: Any) -> Choice:
    options = {"schedule": "auto", "differentiation": None, "engine": "jax", **options}
    return scheduling(generator, memory_limit=memory_limit, **options).choice(rows, "float32", training=True)


def test_there_is_enough_memory_for_the_weight_in_one_piece_where_nobody_limits_it():
    assert scheduled(LARGE).taken.schedule == "materialise"
    assert scheduled(LARGE, 4 * 1024 * 1024).taken.schedule == "stream"
    assert scheduled(LARGE_LINEAR).taken.schedule == "contract"


@pytest.mark.parametrize("options", LAYER_TOPOLOGIES.values(), ids=LAYER_TOPOLOGIES.keys())
def test_what_is_taken_holds_no_more_than_the_limit_and_an_error_names_the_least(options):
    generator = options((256, 512))
    with pytest.raises(ValueError, match="the least that works is") as refused:
        scheduled(generator, 1)
    least = int(str(refused.value).rpartition("works is ")[2].partition(" ")[0].replace(",", ""))
    assert scheduled(generator, least).taken.bytes == least
    with pytest.raises(ValueError, match="the least that works is"):
        scheduled(generator, least - 1)


@pytest.mark.parametrize("topology", [name for name in COMPILED if name not in ONLY_THAT_SHAPE])
def test_streams_hold_an_eighth_of_the_weight_or_little_or_the_least_that_can_be(topology):
    generator = TOPOLOGIES[topology]("tanh")((4096, 4096))
    task = Task(generator.network, rows=8)
    taken = choose(task, DEFAULT, "stream").taken
    allowed = max(task.weight_bytes // 8, FEW_BYTES)
    assert choose(task, DEFAULT, "stream", max(allowed, taken.bytes)).taken == taken
    if taken.bytes > allowed:
        with pytest.raises(ValueError, match=f"the least that works is {taken.bytes:,} "):
            choose(task, DEFAULT, "stream", taken.bytes - 1)


def bytes_compiled(layer: Any, x: jax.Array) -> int:
    """What the compiled gradient takes beside its arguments and results."""
    equinox = pytest.importorskip("equinox")
    arrays, static = equinox.partition(layer, equinox.is_array)

    def loss(arrays: Any, x: jax.Array) -> jax.Array:
        return (jnp.sin(jax.vmap(equinox.combine(arrays, static))(x)) ** 2).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(arrays, x).compile()
    size: int = compiled.memory_analysis().temp_size_in_bytes
    return size


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="XLA held up to a quarter more then")
@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "auto"])
@pytest.mark.parametrize("options", [LAYER_TOPOLOGIES["TTN"], LINEAR["MERA"]], ids=["TTN", "MERA"])
def test_compiled_layers_hold_no_more_than_was_predicted(options, schedule):
    equinox = pytest.importorskip("adntn_jax.equinox")
    features, rows = 512, 4
    layer = equinox.Linear(features, features, topology=options, schedule=schedule, key=jax.random.key(0))
    vectors = 4 * rows * (features + features) * 4  # y and its adjoint, and how tiles lay them
    predicted = layer.choice().taken.bytes * (rows if schedule == "contract" else 1)  # each example has its own
    jax.config.update("jax_disable_most_optimizations", False)
    assert bytes_compiled(layer, jnp.ones((rows, features))) <= predicted + vectors


def test_layers_of_a_schedule_within_a_limit_hold_no_more():
    equinox = pytest.importorskip("adntn_jax.equinox")
    limit = 512 * 512 * 4 // 2
    layer = equinox.Linear(512, 512, memory_limit=limit, key=jax.random.key(0))
    jax.config.update("jax_disable_most_optimizations", False)
    assert bytes_compiled(layer, jnp.ones((4, 512))) <= limit + 4 * 4 * 1024 * 4
    little = equinox.Linear(512, 512, memory_limit=1000, key=jax.random.key(0))
    with pytest.raises(ValueError, match="memory_limit=1,000 bytes is too little"):
        little(jnp.ones(512))


def test_a_product_of_ones_own_is_not_contracted():
    nnx = pytest.importorskip("flax.nnx")
    generated = pytest.importorskip("adntn_jax.nnx")
    keywords = {"topology": LINEAR["TTN, linear"], "precision": "highest", "rngs": nnx.Rngs(0)}
    with pytest.raises(ValueError, match='not be "contract" with a dot_general, precision'):
        generated.Linear(512, 512, schedule="contract", **keywords)
    assert generated.Linear(512, 512, **keywords).choice(1).taken.schedule != "contract"
    del keywords["precision"]
    assert generated.Linear(512, 512, **keywords).choice(1).taken.schedule == "contract"
