"""Equinox layers with generated weights are Equinox's layers, but for where the weight comes from."""

from __future__ import annotations

import inspect
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matrix import in_ways

eqx = pytest.importorskip("equinox")
optax = pytest.importorskip("optax")

import adntn  # noqa: E402
import adntn_jax.equinox as generated  # noqa: E402

KEY = jax.random.key(0)
#: The class, its arguments, and the shape of an input.
LAYERS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "Linear": ("Linear", {"in_features": 30, "out_features": 23}, (30,)),
    "Linear, from a scalar": ("Linear", {"in_features": "scalar", "out_features": 8, "use_bias": False}, ()),
    "Linear, to a scalar": ("Linear", {"in_features": 30, "out_features": "scalar"}, (30,)),
    "Conv1d, dilated": ("Conv1d", {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "dilation": 2}, (4, 16)),
    "Conv2d, groups": (
        "Conv2d",
        {"in_channels": 4, "out_channels": 8, "kernel_size": [3, 5], "groups": 2, "stride": (2, 1), "use_bias": False},
        (4, 9, 9),
    ),
    "Conv2d, circular and same": (
        "Conv2d",
        {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "padding": "same", "padding_mode": "circular"},
        (2, 6, 6),
    ),
    "Conv3d": ("Conv3d", {"in_channels": 2, "out_channels": 4, "kernel_size": (1, 3, 3), "padding": 1}, (2, 3, 6, 6)),
    "ConvTranspose1d, groups": (
        "ConvTranspose1d",
        {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2, "stride": 2, "output_padding": 1},
        (4, 9),
    ),
    "ConvTranspose2d": (
        "ConvTranspose2d",
        {"in_channels": 3, "out_channels": 4, "kernel_size": (2, 3), "stride": 2, "padding": "SAME", "use_bias": False},
        (3, 4, 5),
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("case", "way"), in_ways(LAYERS).values(), ids=in_ways(LAYERS).keys())
def test_outputs_and_gradients_are_the_dense_layers(case, way, refused, assert_agree):
    kind, arguments, shape = case
    if reason := refused(kind, arguments.get("groups", 1), way):
        with pytest.raises(ValueError, match=reason):
            getattr(generated, kind)(**arguments, key=KEY, **way)
        return
    layer = getattr(generated, kind)(**arguments, key=KEY, **way)
    cores = {name: np.asarray(core) for name, core in layer.cores.items()}
    weight, pullback = layer.generator.vjp(cores)
    dense = getattr(eqx.nn, kind)(**arguments, key=KEY)
    assert dense.weight.dtype == layer.cores["scale"].dtype == "float64"
    dense = eqx.tree_at(lambda dense: dense.weight, dense, jnp.asarray(weight))  # its bias is the layer's: the same key
    x = jax.random.normal(KEY, (2, *shape))
    squares = eqx.filter_jit(eqx.filter_value_and_grad(lambda both: (jnp.sin(jax.vmap(both[0])(both[1])) ** 2).sum()))
    (own, (gradient, x_bar)), (expected, (reference, expected_x_bar)) = squares((layer, x)), squares((dense, x))
    assert_agree((own, x_bar), (expected, expected_x_bar))
    assert_agree(gradient.bias, reference.bias)
    assert_agree(gradient.cores, pullback(np.asarray(reference.weight)))
    made = eqx.filter_jit(lambda layer: layer.to_dense())(layer)
    assert_agree(eqx.filter(made, eqx.is_array), eqx.filter(dense, eqx.is_array))
    for name in layer.dense_arguments:
        assert getattr(layer, name) == getattr(dense, name)


@pytest.mark.parametrize("kind", ["Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "MultiheadAttention"])
def test_signatures_begin_as_equinoxs_do(kind):
    own = inspect.signature(getattr(generated, kind)).parameters
    dense = inspect.signature(getattr(eqx.nn, kind)).parameters
    assert list(own)[: len(dense)] == list(dense)
    assert [own[name].kind for name in dense] == [one.kind for one in dense.values()]
    assert {own[name].kind for name in list(own)[len(dense) :]} == {inspect.Parameter.KEYWORD_ONLY}
    for name, one in dense.items():  # some of Equinox's own defaults are (0, 0) where ours is 0
        same = one.default if not isinstance(one.default, tuple) else one.default[0]
        assert own[name].default == same


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("Conv2d", {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "groups": 2}),
        ("Conv2d", {"in_channels": 4, "out_channels": 4, "kernel_size": (3, 3, 3)}),
        ("Conv1d", {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": "sane"}),
        ("Conv1d", {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding_mode": "mirror"}),
    ],
)
def test_wrong_arguments_get_equinoxs_own_errors(kind, arguments):
    with pytest.raises(ValueError) as expected:  # noqa: PT011 (whatever Equinox says)
        getattr(eqx.nn, kind)(**arguments, key=KEY)
    with pytest.raises(ValueError) as own:  # noqa: PT011
        getattr(generated, kind)(**arguments, key=KEY)
    assert str(own.value) == str(expected.value)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"differentiation": "magic"}, ValueError, "native, adjoint, got 'magic'"),
        ({"engine": "numpi"}, ImportError, "numpi"),
        ({"topology": "TTN"}, TypeError, "options such as"),
        ({"topology": lambda shape: shape}, TypeError, r"adntn.Generator for the shape \(8, 16\), got tuple"),
        ({"topology": adntn.TTN.options(batch=2)}, ValueError, r"\(8, 16\), but TTN\(batch=2\) generates \(2, 8, 16\)"),
        ({"std": -1.0}, ValueError, "std must be a positive number"),
    ],
)
def test_wrong_keywords_are_named(keywords, error, message):
    with pytest.raises(error, match=message):
        generated.Linear(16, 8, key=KEY, **keywords)


def test_wrong_schedules_are_named(wrong_schedule):
    keywords, error, message = wrong_schedule
    with pytest.raises(error, match=message):
        generated.Linear(16, 8, key=KEY, **keywords)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_double_precision_without_x64_is_refused():
    with pytest.raises(ValueError, match="jax_enable_x64"):
        generated.Linear(16, 8, dtype="float64", key=KEY)


def test_the_weight_starts_with_equinoxs_deviation():
    layer, dense = (module.Linear(96, 400, key=KEY) for module in (generated, eqx.nn))
    deviation = eqx.filter_jit(lambda layer: layer.weight.std())
    assert float(deviation(layer)) == pytest.approx(float(deviation(dense)), rel=0.1)
    assert float(deviation(generated.Linear(96, 400, key=KEY, std=0.5))) == pytest.approx(0.5, rel=0.01)


@pytest.mark.usefixtures("x64")
def test_layers_built_under_vmap_are_those_built_one_by_one(assert_agree):
    def build(key: jax.Array) -> generated.Linear:
        return generated.Linear(6, 4, key=key)

    keys = jax.random.split(KEY, 3)
    together = eqx.filter_vmap(build)(keys)
    outputs = eqx.filter_jit(eqx.filter_vmap(lambda layer, x: layer(x), in_axes=(eqx.if_array(0), None)))
    x = jax.random.normal(KEY, (6,))
    output = eqx.filter_jit(lambda layer, x: layer(x))
    assert_agree(outputs(together, x), jnp.stack([output(build(key), x) for key in keys]))
    assert not jnp.array_equal(together.cores["top"][0], together.cores["top"][1])
    shapes = eqx.filter_eval_shape(build, KEY)
    assert {name: core.shape for name, core in shapes.cores.items()} == shapes.generator.core_shapes


def test_leaves_are_the_cores_and_the_bias_and_can_be_saved_and_replaced(assert_agree):
    layer, other = (generated.Linear(6, 4, key=key) for key in jax.random.split(KEY))
    arrays, static = eqx.partition(layer, eqx.is_inexact_array)
    count = sum(leaf.size for leaf in jax.tree.leaves(arrays))
    assert count == layer.generator.parameters + 4
    assert_agree(eqx.combine(arrays, static).weight, layer.weight)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, layer)
    file.seek(0)
    assert_agree(eqx.tree_deserialise_leaves(file, other).weight, layer.weight)
    given = layer.generator.init(seed=7, backend="jax")
    assert_agree(eqx.tree_at(lambda layer: layer.cores, layer, given).weight, layer.generator.weight(given))
    assert "topology" in repr(layer)
    assert len(repr(layer)) < 1000


@pytest.mark.parametrize(("engine", "path"), [("jax", "native"), ("jax", "adjoint"), ("numpy", "adjoint")])
def test_optax_trains_the_cores(engine, path):
    target = generated.Linear(16, 8, key=jax.random.key(1))
    model = generated.Linear(16, 8, key=KEY, differentiation=path, engine=engine)
    x = jax.random.normal(KEY, (32, 16))
    optimiser = optax.adam(0.03)

    @eqx.filter_value_and_grad
    def loss(model: generated.Linear, x: jax.Array) -> jax.Array:
        return ((jax.vmap(model)(x) - jax.vmap(target)(x)) ** 2).mean()

    @eqx.filter_jit
    def step(model: generated.Linear, state: Any) -> tuple[generated.Linear, Any, jax.Array]:
        value, gradients = loss(model, x)
        updates, state = optimiser.update(gradients, state)
        return eqx.apply_updates(model, updates), state, value

    state, losses = optimiser.init(eqx.filter(model, eqx.is_inexact_array)), []
    for _ in range(60):
        model, state, value = step(model, state)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]
    outputs = eqx.filter_jit(lambda model, x: (jax.vmap(model)(x), jax.vmap(model.to_dense())(x)))
    np.testing.assert_allclose(*outputs(model, x), rtol=1e-5, atol=1e-6)


def test_a_topology_in_the_place_of_another_argument_is_refused():
    for layer, sizes, argument in ((generated.Linear, (6, 4), "use_bias"), (generated.Conv2d, (3, 4, 3), "stride")):
        with pytest.raises(TypeError, match=f"{argument} must not be a topology: give it by name, topology=TTN"):
            layer(*sizes, adntn.TTN.options(bond=2), key=KEY)
