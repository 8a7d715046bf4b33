"""Weights in tiles: the numbers and gradients of the whole weight, under JAX's transformations, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from helpers import generic_cores, in_library, random_array, relative_error
from jax.sharding import AxisType, PartitionSpec
from jaxprs import equations
from matrix import COMPILED, LAYER_TOPOLOGIES, SHAPE, TOPOLOGIES

import adntn
from adntn.tiling import Plan, Tiling, tiling
from adntn_jax import tiles

#: Rows of the topologies' matrix with shapes: batched, and padded in rows and in columns.
WEIGHTS = [
    *((topology, SHAPE) for topology in COMPILED),
    ("TTN, batch", (11, 13)),
    ("TTN, shared", (30,)),
    ("AugmentedTTN", (5, 7, 3)),
    ("TensorTrain, batch", (2, 3, 1, 2, 2, 3)),
    ("MERA, ternary, activation on the weight", (64, 27)),
    ("LowRank, batch", (11, 13)),
]
#: Of layers: a derivative of the input, one of the output, rows that are no multiple of the tile's, a shared core.
GENERATORS = {
    "MERA": adntn.MERA((22, 12), bond=2, mixing_activation="tanh"),
    "TTN, shared, gelu": adntn.TTN((16, 9), bond=3, share="level", last_activation="gelu", layout="interleaved"),
}


@pytest.fixture(params=GENERATORS.values(), ids=GENERATORS.keys())
def generator(request: pytest.FixtureRequest) -> adntn.Generator:
    made: adntn.Generator = request.param
    return made


def tiled(generator: adntn.Generator, tile_rows: int) -> Tiling:
    return tiling(generator.network, generator.paths, Plan(tile_rows))


def double(generator: adntn.Generator, seed: int = 0, dtype: str = "float64") -> dict[str, jax.Array]:
    return in_library(generic_cores(generator, seed, dtype), "jax")


def inputs(generator: adntn.Generator, examples: int = 4, dtype: str = "float64") -> jax.Array:
    return jnp.asarray(random_array((examples, *generator.shape[1:]), 5, dtype))


def streaming(generator: adntn.Generator, tile_rows: int = 5) -> Callable[[Any, jax.Array], jax.Array]:
    """A loss of cores and x, not linear in the weight, of one example or of some."""
    tiles_of = tiled(generator, tile_rows)

    def loss(cores: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        y = tiles.streamed(tiles_of, cores, x, lambda tile, x: x @ tile.T, axis=x.ndim - 1)
        return (jnp.sin(y) ** 2).sum()

    return loss


def reference(generator: adntn.Generator) -> Callable[[Any, jax.Array], jax.Array]:
    """The same from the whole weight, differentiated by JAX."""
    return lambda cores, x: (jnp.sin(x @ generator.weight(cores).T) ** 2).sum()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tile_rows", [1, 2, 3, 5])
@pytest.mark.parametrize(("topology", "shape"), WEIGHTS)
def test_weights_and_gradients_are_the_librarys(topology, shape, tile_rows, assert_agree):
    generator = TOPOLOGIES[topology]("gelu")(shape)
    cores = generic_cores(generator)
    expected, pullback = generator.vjp(cores)
    weight_bar = random_array(generator.shape)
    tiles_of = tiled(generator, tile_rows)

    @jax.jit
    def both(cores: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        weight, pull_back = jax.vjp(partial(tiles.weight, tiles_of), cores)
        return weight, pull_back(jnp.asarray(weight_bar))[0]

    assert_agree(both(in_library(cores, "jax")), (expected, pullback(weight_bar)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("tile_rows", [1, 3, 100])
def test_streamed_outputs_and_gradients_are_those_of_the_whole_weight(generator, tile_rows, assert_agree):
    own, expected = (
        jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(double(generator), inputs(generator))
        for loss in (streaming(generator, tile_rows), reference(generator))
    )
    assert_agree(own, expected)


@pytest.mark.usefixtures("x64")
def test_an_example_at_a_time_is_the_batch(generator, assert_agree):
    cores, x = double(generator), inputs(generator)
    own, expected = (
        jax.jit(jax.grad(lambda cores, x, loss=loss: jax.vmap(loss, (None, 0))(cores, x).sum(), argnums=(0, 1)))
        for loss in (streaming(generator), reference(generator))
    )
    assert_agree(own(cores, x), expected(cores, x))


@pytest.mark.usefixtures("x64")
def test_ensembles_and_gradients_of_each_example_are_those_of_the_whole_weight(generator, assert_agree):
    members = [double(generator, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *cores: jnp.stack(cores), *members)
    own, expected = (
        jax.jit(jax.vmap(jax.vmap(jax.grad(loss, argnums=(0, 1)), in_axes=(None, 0)), in_axes=(0, None)))
        for loss in (streaming(generator), reference(generator))
    )
    assert_agree(own(stacked, inputs(generator)), expected(stacked, inputs(generator)))


@pytest.mark.usefixtures("x64")
def test_second_derivatives_are_those_of_the_whole_weight(assert_agree):
    generator = GENERATORS["TTN, shared, gelu"]
    cores, direction, x = double(generator), double(generator, 1), inputs(generator)

    def curvature(loss: Callable[..., jax.Array]) -> Any:
        first = jax.grad(loss)
        slope = lambda cores, x: sum((first(cores, x)[name] * direction[name]).sum() for name in cores)  # noqa: E731
        return jax.jit(jax.grad(slope, argnums=(0, 1)))(cores, x)

    assert_agree(curvature(streaming(generator)), curvature(reference(generator)))


def mesh_of_four(axis: str) -> jax.sharding.Mesh:
    return jax.make_mesh((4,), (axis,), (AxisType.Auto,), devices=jax.devices("cpu")[:4])


@pytest.mark.usefixtures("x64")
def test_data_sharded_over_devices_gives_the_same_gradients(generator, assert_agree):
    everywhere, split = PartitionSpec(), PartitionSpec("data")
    loss = streaming(generator)

    @jax.jit
    @partial(jax.shard_map, mesh=mesh_of_four("data"), in_specs=(everywhere, split), out_specs=(everywhere, split))
    def gradients(cores: dict[str, jax.Array], x: jax.Array) -> Any:
        return jax.grad(lambda cores, x: jax.lax.psum(loss(cores, x), "data"), argnums=(0, 1))(cores, x)

    expected = jax.jit(jax.grad(reference(generator), argnums=(0, 1)))(double(generator), inputs(generator))
    assert_agree(gradients(double(generator), inputs(generator)), expected)


@pytest.mark.usefixtures("x64")
def test_experts_sharded_over_devices_are_generated_where_they_live(assert_agree):
    whole, part = (adntn.TTN((4, 6), bond=2, batch=batch) for batch in (8, 2))
    split = PartitionSpec("expert")
    weight = partial(tiles.weight, tiled(part, 2))
    sharded = jax.shard_map(weight, mesh=mesh_of_four("expert"), in_specs=split, out_specs=split)
    own, expected = (
        jax.jit(jax.value_and_grad(lambda cores, make=make: (make(cores) ** 3).sum()))(double(whole))
        for make in (sharded, whole.weight)
    )
    assert_agree(own, expected)


@pytest.mark.usefixtures("x64")
def test_gradients_of_complex_cores_are_jaxs_own(assert_agree):
    generator = adntn.MERA((6, 5), bond=2, mixing_activation="tanh")
    cores, x = double(generator, dtype="complex128"), inputs(generator, dtype="complex128")
    tiles_of = tiled(generator, 2)

    def square(y: jax.Array) -> jax.Array:
        return (y * y.conj()).real.sum()

    own, expected = (
        jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(cores, x)
        for loss in (
            lambda cores, x: square(tiles.streamed(tiles_of, cores, x, lambda tile, x: x @ tile.T, axis=1)),
            lambda cores, x: square(x @ generator.weight(cores).T),
        )
    )
    assert_agree(own, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_numbers_are_added_up_over_the_tiles_in_float32(dtype):
    generator = adntn.TTN((4096, 8), bond=2)
    cores = generator.init(backend="jax", dtype=dtype)
    x = jnp.asarray(random_array((3, 8)), dtype)
    wide_cores, wide_x = jax.tree.map(lambda array: array.astype("float64"), (cores, x))
    # so many shares of one sign that a sum in 16 bits would come to a stand
    y_bar = jnp.sign(generator.weight(wide_cores) @ jnp.ones((8, 3))).T
    tiles_of = tiled(generator, 2)

    def streamed(cores: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return tiles.streamed(tiles_of, cores, x, lambda tile, x: x @ tile.T, axis=1)

    own, pullback = jax.vjp(jax.jit(streamed), cores, x)
    expected, wide_pullback = jax.vjp(jax.jit(lambda cores, x: x @ generator.weight(cores).T), wide_cores, wide_x)
    for one, other in zip(
        jax.tree.leaves((own, pullback(y_bar.astype(dtype)))),
        jax.tree.leaves((expected, wide_pullback(y_bar))),
        strict=True,
    ):
        assert one.dtype == dtype
        assert relative_error(one.astype("float64"), other) <= 2 * float(jnp.finfo(dtype).eps)


def test_what_is_compiled_does_not_grow_with_the_tiles(topology):
    generator = topology((64, 16))
    cores, x = generator.init(backend="jax"), jnp.ones((2, 16))

    def count(tile_rows: int) -> int:
        program = jax.make_jaxpr(jax.grad(streaming(generator, tile_rows), argnums=(0, 1)))(cores, x)
        return sum(1 for _ in equations(program.jaxpr))

    few, many = count(16), count(1)
    assert many <= 2 * few  # loops inside loops are more equations; there are sixteen times the tiles


@pytest.mark.parametrize("topology", ["TTN", "TTN, shared, gelu", "TensorTrain", "LowRank", "Tucker"])
def test_neither_the_weight_nor_a_tile_for_each_example_exists(topology):
    """However a layer is mapped over examples: no array in the program of value and gradient is larger than y."""
    generator, examples, tile_rows = LAYER_TOPOLOGIES[topology]((1024, 512)), 64, 4
    cores, x = jax.eval_shape(partial(generator.init, backend="jax")), jnp.ones((examples, 512))
    largest = examples * 1024
    assert largest < min(examples * tile_rows * 512, 1024 * 512)
    loss = streaming(generator, tile_rows)
    for mapped in (loss, lambda cores, x: jax.vmap(loss, in_axes=(None, 0))(cores, x).sum()):
        program = jax.make_jaxpr(jax.value_and_grad(mapped, argnums=(0, 1)))(cores, x)
        sizes = [variable.aval.size for equation in equations(program.jaxpr) for variable in equation.outvars]
        assert max(sizes) == largest


def bytes_of_gradient(loss: Callable[..., jax.Array], *arguments: Any) -> int:
    """What the compiled gradient takes beside its arguments and results."""
    compiled = jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments))))).lower(*arguments).compile()
    size: int = compiled.memory_analysis().temp_size_in_bytes
    return size


def test_a_streamed_layers_gradient_takes_less_than_a_quarter_of_the_weight():
    generator = adntn.TTN((1024, 1024), bond=2, activation="tanh")
    cores, x = generator.init(backend="jax"), jnp.ones((16, 1024))
    size = 4 * 1024 * 1024
    assert bytes_of_gradient(streaming(generator, 16), cores, x) < size / 4
    assert bytes_of_gradient(reference(generator), cores, x) > size


@pytest.mark.parametrize("schedule", ["recompute", "stream"])
def test_layers_one_after_another_keep_nothing_of_their_weights(schedule):
    equinox = pytest.importorskip("equinox")
    from adntn_jax.equinox import Linear  # noqa: PLC0415 (may be missing)

    def size(count: int) -> int:
        keys = jax.random.split(jax.random.key(0), count)
        layers = [Linear(512, 512, key=key, schedule=schedule) for key in keys]
        arrays, static = equinox.partition(layers, equinox.is_array)

        def loss(arrays: Any, x: jax.Array) -> jax.Array:
            for layer in equinox.combine(arrays, static):
                x = jnp.tanh(jax.vmap(layer)(x))
            return (x**2).sum()

        return bytes_of_gradient(loss, arrays, jnp.ones((8, 512)))

    assert size(3) < size(1) + 4 * 512 * 512 / 4


@pytest.mark.usefixtures("x64")
def test_what_accelerators_compile_gives_the_same_numbers(generator, monkeypatch, assert_agree):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # which heeds barriers, so that there is no condition
    program = jax.make_jaxpr(jax.grad(streaming(generator)))(double(generator), inputs(generator))
    assert "cond" not in {equation.primitive.name for equation in equations(program.jaxpr)}
    own, expected = (
        jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(double(generator), inputs(generator))
        for loss in (streaming(generator), reference(generator))
    )
    assert_agree(own, expected)
