"""Flax NNX layers with generated kernels are NNX's layers, but for where the kernel comes from."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrix import in_ways

pytest.importorskip("flax")
optax = pytest.importorskip("optax")

from flax import nnx  # noqa: E402

import adntn  # noqa: E402
import adntn_jax.nnx as generated  # noqa: E402

BIAS = {"bias_init": nnx.initializers.normal(0.1)}
#: The class, its arguments, and the shape of an input.
LAYERS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "Linear": ("Linear", {"in_features": 30, "out_features": 23, **BIAS}, (5, 30)),
    "Linear, no bias": ("Linear", {"in_features": 16, "out_features": 8, "use_bias": False}, (2, 5, 16)),
    "Conv, causal": ("Conv", {"in_features": 4, "out_features": 6, "kernel_size": 3, "padding": "CAUSAL"}, (2, 9, 4)),
    "Conv, groups": (
        "Conv",
        {
            "in_features": 4,
            "out_features": 8,
            "kernel_size": (3, 5),
            "feature_group_count": 2,
            "strides": (2, 1),
            **BIAS,
        },
        (2, 9, 9, 4),
    ),
    "ConvTranspose": (
        "ConvTranspose",
        {"in_features": 3, "out_features": 4, "kernel_size": (2, 3), "strides": (2, 2), **BIAS},
        (2, 4, 5, 3),
    ),
    "ConvTranspose, transposed kernel": (
        "ConvTranspose",
        {"in_features": 3, "out_features": 4, "kernel_size": [3], "transpose_kernel": True},
        (2, 5, 3),
    ),
    "Conv, circular and masked": (
        "Conv",
        {
            "in_features": 2,
            "out_features": 4,
            "kernel_size": [3, 3],
            "padding": "CIRCULAR",
            "mask": jnp.tril(jnp.ones((3, 3, 2, 4))),
        },
        (6, 6, 2),
    ),
}


@nnx.jit
def squares(layer: nnx.Module, x: jax.Array) -> tuple[jax.Array, tuple[nnx.State, jax.Array]]:
    value_and_gradients = nnx.value_and_grad(lambda layer, x: (jnp.sin(layer(x)) ** 2).sum(), argnums=(0, 1))
    value, gradients = value_and_gradients(layer, x)
    return value, gradients


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("case", "way"), in_ways(LAYERS).values(), ids=in_ways(LAYERS).keys())
def test_outputs_and_gradients_are_the_dense_layers(case, way, refused, assert_agree):
    kind, arguments, shape = case
    options = {**arguments, "param_dtype": jnp.float64}
    has_rows = "mask" not in arguments and kind != "ConvTranspose"
    if reason := refused(kind, arguments.get("feature_group_count", 1) if has_rows else 2, way):
        with pytest.raises(ValueError, match=reason):
            getattr(generated, kind)(**options, rngs=nnx.Rngs(0), **way)
        return
    layer = getattr(generated, kind)(**options, rngs=nnx.Rngs(0), **way)
    weight, pullback = layer.generator.vjp({name: np.asarray(core[...]) for name, core in layer.cores.items()})
    dense = getattr(nnx, kind)(**options, rngs=nnx.Rngs(0))  # its bias is the layer's: the same key
    axes = (*range(2, weight.ndim), 1, 0)
    dense.kernel[...] = jnp.asarray(weight.transpose(axes))
    x = jax.random.normal(jax.random.key(0), shape, "float64")
    (own, (gradient, x_bar)), (expected, (reference, expected_x_bar)) = squares(layer, x), squares(dense, x)
    assert_agree((own, x_bar), (expected, expected_x_bar))
    if dense.bias is not None:
        assert_agree(gradient["bias"][...], reference["bias"][...])
    weight_bar = np.asarray(reference["kernel"][...]).transpose(np.argsort(axes))
    assert_agree({name: core[...] for name, core in gradient["cores"].items()}, pullback(weight_bar))
    assert_agree(nnx.jit(lambda layer, x: layer.to_dense()(x))(layer, x), nnx.jit(lambda layer, x: layer(x))(dense, x))


@pytest.mark.parametrize("kind", ["Linear", "Conv", "ConvTranspose"])
def test_signatures_are_nnxs_without_what_is_meant_for_a_stored_kernel(kind):
    own = dict(inspect.signature(getattr(generated, kind).__init__).parameters)
    dense = dict(inspect.signature(getattr(nnx, kind).__init__).parameters)
    assert set(dense) - set(own) == {"kernel_init", "kernel_metadata"}
    assert set(own) - set(dense) == {"topology", "differentiation", "engine", "std", "schedule", "memory_limit"}
    for name in set(own) & set(dense) - {"bias_init"}:
        assert (own[name].kind, own[name].default) == (dense[name].kind, dense[name].default)
    layer = getattr(generated, kind)(4, 6, *([3] if kind != "Linear" else []), rngs=nnx.Rngs(0))
    assert not layer.bias[...].any()  # as bias_init, zeros, has it


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"differentiation": "magic"}, ValueError, "native, adjoint, got 'magic'"),
        ({"topology": "TTN"}, TypeError, "options such as"),
        ({"std": -1.0}, ValueError, "std must be a positive number"),
        ({"kernel_init": nnx.initializers.zeros}, TypeError, "kernel_init"),
    ],
)
def test_wrong_keywords_are_named(keywords, error, message):
    with pytest.raises(error, match=message):
        generated.Linear(16, 8, rngs=nnx.Rngs(0), **keywords)


def test_wrong_schedules_are_named(wrong_schedule):
    keywords, error, message = wrong_schedule
    with pytest.raises(error, match=message):
        generated.Linear(16, 8, rngs=nnx.Rngs(0), **keywords)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_double_precision_without_x64_is_refused():
    with pytest.raises(ValueError, match="jax_enable_x64"):
        generated.Linear(16, 8, param_dtype=jnp.float64, rngs=nnx.Rngs(0))


def test_the_kernel_starts_with_nnxs_deviation():
    layer, dense = (module.Linear(96, 400, rngs=nnx.Rngs(0)) for module in (generated, nnx))
    deviation = nnx.jit(lambda layer: layer.kernel[...].std())
    assert float(deviation(layer)) == pytest.approx(float(deviation(dense)), rel=0.1)
    conv, dense = (module.Conv(8, 400, (3, 3), rngs=nnx.Rngs(0)) for module in (generated, nnx))
    assert float(deviation(conv)) == pytest.approx(float(deviation(dense)), rel=0.1)


@pytest.mark.parametrize("schedule", ["materialise", "recompute", "stream"])
def test_the_computing_number_type_is_nnxs_dtype(schedule):
    layer = generated.Linear(16, 8, dtype=jnp.bfloat16, schedule=schedule, **BIAS, rngs=nnx.Rngs(0))
    assert layer.kernel.dtype == jnp.float32
    x = jax.random.normal(jax.random.key(0), (2, 16))
    y = nnx.jit(lambda layer, x: layer(x))(layer, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, layer.to_dense()(x))


def test_the_state_is_the_cores_and_the_bias(assert_agree):
    layer, other = (generated.Linear(6, 4, rngs=nnx.Rngs(seed)) for seed in range(2))
    state = nnx.state(layer, nnx.Param)
    assert {name: core[...].shape for name, core in state["cores"].items()} == layer.generator.core_shapes
    assert set(state) == {"cores", "bias"}
    nnx.update(other, state)
    assert_agree(other.kernel, layer.kernel)
    graph, state = nnx.split(layer)
    assert_agree(nnx.merge(graph, state).kernel, layer.kernel)
    assert_agree(nnx.clone(layer).kernel, layer.kernel)


def test_layers_are_built_under_vmap_and_without_data():
    def build(rngs: nnx.Rngs) -> generated.Linear:
        return generated.Linear(6, 4, rngs=rngs)

    together = nnx.split_rngs(splits=3)(nnx.vmap(build))(nnx.Rngs(0))
    assert together.cores["top"].shape == (3, *together.generator.core_shapes["top"])
    x = jnp.ones((2, 6))
    outputs = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(together, x)
    for place in range(3):
        cores = {name: np.asarray(core[...])[place] for name, core in together.cores.items()}
        np.testing.assert_allclose(outputs[place], x @ together.generator.weight(cores).T, rtol=1e-4, atol=1e-5)
    shapes = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    assert {name: core.shape for name, core in shapes.cores.items()} == shapes.generator.core_shapes


@pytest.mark.parametrize(("engine", "path"), [("jax", "native"), ("jax", "adjoint"), ("numpy", "adjoint")])
def test_optax_trains_the_cores(engine, path):
    target = generated.Linear(16, 8, rngs=nnx.Rngs(1))
    options = adntn.TTN.options(bond=4)
    model = generated.Linear(16, 8, rngs=nnx.Rngs(0), topology=options, differentiation=path, engine=engine)
    optimiser = nnx.Optimizer(model, optax.adam(0.03), wrt=nnx.Param)
    x = jax.random.normal(jax.random.key(0), (32, 16))
    y = nnx.jit(lambda layer, x: layer(x))(target, x)

    @nnx.jit
    def step(model: generated.Linear, optimiser: nnx.Optimizer) -> jax.Array:
        value, gradients = nnx.value_and_grad(lambda model: ((model(x) - y) ** 2).mean())(model)
        optimiser.update(model, gradients)
        return value

    losses = [float(step(model, optimiser)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    outputs = nnx.jit(lambda model, x: (model(x), model.to_dense()(x)))
    np.testing.assert_allclose(*outputs(model, x), rtol=1e-5, atol=1e-6)
