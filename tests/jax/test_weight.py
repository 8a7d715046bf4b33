"""The weight under JAX's transformations, along both paths, against NumPy's adjoint and finite differences."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads
from jaxprs import equations

import adntn
import adntn_jax

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(8, 18))
WEIGHT_BAR = DRAW.normal(size=(10, 18))
MERA = adntn.MERA((6, 10), bond=2, mixing_activation="tanh")
#: What transformations can meet: a shared core, a derivative of the input, one of the output, a padded weight.
GENERATORS = {
    "TTN, shared, gelu": adntn.TTN((6, 10), bond=3, share="level", last_activation="gelu", layout="interleaved"),
    "AugmentedTTN, activation on the weight": adntn.AugmentedTTN((6, 11), bond=2, last_activation="tanh"),
    "MERA": MERA,
}


@pytest.fixture(params=GENERATORS.values(), ids=GENERATORS.keys())
def generator(request: pytest.FixtureRequest) -> adntn.Generator:
    made: adntn.Generator = request.param
    return made


def mesh_of_four(axis: str) -> jax.sharding.Mesh:
    return jax.make_mesh((4,), (axis,), (AxisType.Auto,), devices=jax.devices("cpu")[:4])


def double(generator: adntn.Generator, seed: int = 0) -> dict[str, jax.Array]:
    return generator.init(seed, backend="jax", dtype="float64", std=1.0)


def loss_of(generator: adntn.Generator, differentiation: str):
    """The loss whose gradient with respect to the weight is WEIGHT_BAR."""
    return lambda cores: (adntn_jax.weight(generator, cores, differentiation) * WEIGHT_BAR).sum()


def batch_of(generator: adntn.Generator) -> np.ndarray:
    return X[:, : generator.shape[1]]


def fitted(generator: adntn.Generator, differentiation: str):
    """A loss of cores and x, not linear in the weight."""

    def loss(cores: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return (jnp.sin(x @ adntn_jax.weight(generator, cores, differentiation).T) ** 2).sum()

    return loss


@pytest.mark.usefixtures("x64")
def test_weights_and_compiled_gradients_are_numpys(topology, differentiation, assert_agree):
    generator = topology((10, 18))
    expected, pullback = generator.vjp(generator.init(0, dtype="float64", std=1.0))
    cores = double(generator)
    assert_agree(jax.jit(partial(adntn_jax.weight, generator, differentiation=differentiation))(cores), expected)
    assert_agree(jax.jit(jax.grad(loss_of(generator, differentiation)))(cores), pullback(WEIGHT_BAR))


@pytest.mark.usefixtures("x64")
def test_gradients_agree_with_finite_differences(generator, differentiation):
    weight = partial(adntn_jax.weight, generator, differentiation=differentiation)
    check_grads(jax.jit(weight), (double(generator),), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_forward_mode_is_jaxs_own(generator):
    check_grads(jax.jit(generator.weight), (double(generator),), order=1, modes=["fwd"], atol=1e-6, rtol=1e-6)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(
            partial(adntn_jax.weight, generator, differentiation="adjoint"),
            (double(generator),),
            (double(generator, seed=1),),
        )


@pytest.mark.usefixtures("x64")
def test_second_derivatives_of_both_paths_agree(generator, assert_agree):
    cores, direction = double(generator), double(generator, seed=1)

    def curvature(differentiation: str) -> dict[str, jax.Array]:
        first = jax.grad(lambda cores: (adntn_jax.weight(generator, cores, differentiation) ** 2).sum())
        slope = lambda cores: sum((first(cores)[name] * direction[name]).sum() for name in cores)  # noqa: E731
        return jax.jit(jax.grad(slope))(cores)

    assert_agree(curvature("adjoint"), curvature("native"))


COMPLEX = {
    "MERA, tanh": adntn.MERA((6, 5), bond=2, mixing_activation="tanh"),
    "TTN, sin on the weight": adntn.TTN((6, 5), bond=2, last_activation="sin"),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("generator", COMPLEX.values(), ids=COMPLEX.keys())
def test_gradients_of_complex_cores_are_conjugate_to_ours_as_jax_has_it(generator, differentiation, assert_agree):
    cores = generator.init(0, backend="jax", dtype="complex128")
    target = generator.weight(generator.init(1, dtype="complex128"))

    @jax.jit
    def loss(cores: dict[str, jax.Array]) -> jax.Array:
        difference = adntn_jax.weight(generator, cores, differentiation) - target
        return (difference * difference.conj()).real.sum()

    gradients = jax.jit(jax.grad(loss))(cores)
    weight, pullback = generator.vjp(generator.init(0, dtype="complex128"))
    ours = pullback(2 * (weight - target))
    assert_agree(gradients, {name: np.conj(gradient) for name, gradient in ours.items()})
    step = 1e-6
    for name, core in cores.items():
        for direction in (step, 1j * step):
            above, below = (loss({**cores, name: core + sign * direction}) for sign in (1, -1))
            slope = (gradients[name] * (direction / step)).sum().real
            assert float(slope) == pytest.approx(float(above - below) / (2 * step), rel=1e-6, abs=1e-8)


def test_generators_are_static_arguments_that_compile_once(differentiation):
    traced: list[adntn.Generator] = []

    @partial(jax.jit, static_argnums=0)
    def weight(generator: adntn.Generator, cores: dict[str, jax.Array]) -> jax.Array:
        traced.append(generator)
        return adntn_jax.weight(generator, cores, differentiation)

    for bond in (2, 2, 3, 2):
        generator = adntn.TTN((8, 6), bond=bond)  # equal, but another object every time
        cores = generator.init(backend="jax")
        np.testing.assert_allclose(weight(generator, cores), generator.weight(generator.init()), rtol=1e-4, atol=1e-6)
    assert traced == [adntn.TTN((8, 6), bond=bond) for bond in (2, 3)]


def test_apply_compiles_whatever_is_closed_over(generator):
    x, cores = jnp.asarray(batch_of(generator), "float32"), generator.init(backend="jax")
    expected = x @ generator.weight(generator.init()).T
    for applied in (jax.jit(generator.apply)(cores, x), jax.jit(lambda cores: generator.apply(cores, x))(cores)):
        np.testing.assert_allclose(applied, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda x: generator.apply(cores, x))(x), expected, rtol=1e-4, atol=1e-5)
    each = jax.jit(jax.vmap(generator.apply, in_axes=(None, 0)))(cores, x)
    np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_an_ensemble_of_cores_is_differentiated_at_once(generator, differentiation, assert_agree):
    x = batch_of(generator)
    members = [double(generator, seed) for seed in range(3)]
    gradient = jax.jit(jax.grad(fitted(generator, differentiation)))
    stacked = jax.tree.map(lambda *cores: jnp.stack(cores), *members)
    together = jax.jit(jax.vmap(gradient, in_axes=(0, None)))(stacked, x)
    for place, cores in enumerate(members):
        assert_agree({name: core[place] for name, core in together.items()}, gradient(cores, x))


@pytest.mark.usefixtures("x64")
def test_gradients_of_each_example_sum_to_the_batchs(differentiation, assert_agree):
    x = batch_of(MERA)
    gradient = jax.jit(jax.grad(fitted(MERA, differentiation)))
    each = jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(double(MERA), x)
    assert_agree({name: np.asarray(one).sum(0) for name, one in each.items()}, gradient(double(MERA), x))


@pytest.mark.usefixtures("x64")
def test_a_scan_of_training_steps_is_the_loop(differentiation, assert_agree):
    value_and_gradient = jax.value_and_grad(fitted(MERA, differentiation))

    @jax.jit
    def step(cores: dict[str, jax.Array], x: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        value, gradients = value_and_gradient(cores, x)
        return {name: core - 1e-3 * gradients[name] for name, core in cores.items()}, value

    cores, batches, losses = double(MERA), batch_of(MERA).reshape(4, 2, -1), []
    scanned, scanned_losses = jax.jit(partial(jax.lax.scan, step))(cores, batches)
    for x in batches:
        cores, value = step(cores, x)
        losses.append(value)
    assert_agree((scanned, scanned_losses), (cores, jnp.stack(losses)))


@pytest.mark.usefixtures("x64")
def test_data_sharded_over_devices_gives_the_same_gradients(differentiation, assert_agree):
    x = batch_of(MERA)
    loss = fitted(MERA, differentiation)
    everywhere, split = PartitionSpec(), PartitionSpec("data")

    @jax.jit
    @partial(jax.shard_map, mesh=mesh_of_four("data"), in_specs=(everywhere, split), out_specs=everywhere)
    def gradients(cores: dict[str, jax.Array], x: jax.Array) -> dict[str, jax.Array]:
        return jax.grad(lambda cores: jax.lax.psum(loss(cores, x), "data"))(cores)

    assert_agree(gradients(double(MERA), x), jax.jit(jax.grad(loss))(double(MERA), x))


@pytest.mark.usefixtures("x64")
def test_experts_sharded_over_devices_are_generated_where_they_live(differentiation, assert_agree):
    whole, part = (adntn.TTN((4, 6), bond=2, batch=batch) for batch in (8, 2))
    cores, split = double(whole), PartitionSpec("expert")
    weight = partial(adntn_jax.weight, part, differentiation=differentiation)
    sharded = jax.shard_map(weight, mesh=mesh_of_four("expert"), in_specs=split, out_specs=split)
    assert_agree(jax.jit(sharded)(cores), jax.jit(whole.weight)(cores))
    own, expected = (
        jax.jit(jax.grad(lambda cores, make=make: (make(cores) ** 3).sum()))(cores) for make in (sharded, whole.weight)
    )
    assert_agree(own, expected)


def test_arrays_spread_over_devices_meet_those_that_are_not(assert_agree):
    generator, x = adntn.LowRank((10, 18), rank=2), jnp.asarray(X, "float32")
    spread = jax.device_put(x, NamedSharding(mesh_of_four("data"), PartitionSpec("data")))
    cores = generator.init(backend="jax")
    assert_agree(generator.apply(cores, spread), generator.apply(cores, x))  # not compiled: tracers have no device


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_numbers_are_computed_in_float32_and_rounded_once(dtype, differentiation):
    generator = MERA
    short = generator.init(backend="jax", dtype=dtype)
    wide = {name: core.astype("float32") for name, core in short.items()}

    def squares(cores: dict[str, jax.Array], path: str) -> tuple[jax.Array, jax.Array]:
        weight = adntn_jax.weight(generator, cores, path).astype(dtype)
        return (weight.astype("float32") ** 2).sum(), weight

    gradient = jax.jit(jax.grad(squares, has_aux=True), static_argnums=1)
    (own, weight), (expected, wide_weight) = gradient(short, differentiation), gradient(wide, "native")
    np.testing.assert_allclose(
        weight.astype("float32"), wide_weight.astype("float32"), rtol=float(jnp.finfo(dtype).eps)
    )
    for name, core in own.items():
        assert core.dtype == dtype
        unit = float(jnp.finfo(dtype).eps) * float(jnp.linalg.norm(expected[name]))
        assert float(jnp.linalg.norm(core.astype("float32") - expected[name])) <= 4 * unit


#: The most axes of any array, and of large ones: rows and columns that alternate have to be sorted in the end.
AXES = {"split": (8, 4), "interleaved": (10, 10)}


@pytest.mark.parametrize("layout", AXES)
@pytest.mark.parametrize("bond", [2, 4])
@pytest.mark.parametrize("topology", [adntn.TTN, adntn.AugmentedTTN, adntn.MERA], ids=lambda one: one.name)
def test_what_xla_compiles_has_few_axes_and_few_steps(topology, bond, layout, differentiation):
    """Compile time grows with both: transposes of 24 legs take XLA minutes, these take it less than a second."""
    generator = topology((4096, 4096), bond=bond, layout=layout, activation="tanh")
    most, most_if_large = AXES[layout]
    cores = jax.eval_shape(partial(generator.init, backend="jax"))
    program = jax.make_jaxpr(jax.grad(lambda cores: adntn_jax.weight(generator, cores, differentiation).sum()))(cores)
    variables = [variable for equation in equations(program.jaxpr) for variable in equation.outvars]
    assert max(variable.aval.ndim for variable in variables) <= most
    assert max(variable.aval.ndim for variable in variables if variable.aval.size > 2**20) <= most_if_large
    assert len(variables) < 1500


def test_double_precision_without_x64_is_refused():
    with pytest.warns(UserWarning, match="truncated"), pytest.raises(ValueError, match="jax_enable_x64") as error:
        MERA.init(backend="jax", dtype="float64")
    assert "'float64' was asked of jax, which gave 'float32'" in str(error.value)
    with jax.enable_x64(True):
        assert MERA.init(backend="jax", dtype="float64")["top"].dtype == "float64"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"differentiation": "autograd"}, ValueError, "one of native, adjoint, got 'autograd'"),
        ({"engine": ""}, ValueError, "engine must be the name of an array library"),
        ({"engine": "json"}, ImportError, "'json' cannot be used.*none of the functions"),
        ({"engine": "numpi"}, ImportError, "backend 'numpi' is unknown"),
        ({"engine": "numpy", "differentiation": "native"}, ValueError, "\"adjoint\" with the engine 'numpy'"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        adntn_jax.weight(MERA, MERA.init(backend="jax"), **options)


def test_wrong_cores_are_named_before_anything_is_traced(differentiation):
    cores = MERA.init(backend="jax")
    weight = jax.jit(partial(adntn_jax.weight, MERA, differentiation=differentiation))
    with pytest.raises(KeyError, match="top"):
        weight({name: core for name, core in cores.items() if name != "top"})
    with pytest.raises(ValueError, match=r"'top' must have the shape"):
        weight({**cores, "top": cores["top"][..., :1]})


def test_importing_the_package_imports_no_layer_library():
    code = "import sys, adntn_jax; print({'equinox', 'flax', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
