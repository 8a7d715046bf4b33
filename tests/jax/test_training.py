"""Objectives, rates and optimisers of JAX against formulas of their own, and with Equinox and NNX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_array, tolerance

eqx = pytest.importorskip("equinox")
nnx = pytest.importorskip("flax.nnx")
optax = pytest.importorskip("optax")

import adntn  # noqa: E402
import adntn_jax.equinox  # noqa: E402
import adntn_jax.nnx  # noqa: E402
from adntn_jax.training import (  # noqa: E402
    core_labels,
    cores_and_others,
    features_loss,
    logits_loss,
    warm_up,
    weights_loss,
)

TTN = adntn.TTN.options(bond=2)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
@pytest.mark.parametrize("shape", [(7,), (2, 3, 7)], ids=str)
def test_distillation_of_logits_is_the_scaled_divergence(x64: None, shape: tuple[int, ...], temperature: float):
    student, teacher = random_array(shape), random_array(shape, seed=1)
    rows = []
    for ours, theirs in zip(student.reshape(-1, 7), teacher.reshape(-1, 7), strict=True):
        p, q = (np.exp(one / temperature) / np.exp(one / temperature).sum() for one in (theirs, ours))
        rows.append(temperature**2 * np.sum(p * np.log(p / q)))
    loss = logits_loss(jnp.asarray(student), jnp.asarray(teacher), temperature=temperature)
    assert float(loss) == pytest.approx(np.mean(rows), rel=tolerance("float64"))


@pytest.mark.parametrize("both", [True, False], ids=["both exclude", "the teacher excludes"])
def test_what_the_teacher_excludes_adds_nothing(x64: None, both: bool):
    excluded = np.array([0, 1, 0, 0, 1, 0, 0], bool)
    ours, theirs = random_array((5, 7)), np.where(excluded, -np.inf, random_array((5, 7), seed=1))
    student = np.where(excluded & both, -np.inf, ours)
    p, q = (np.exp(one) / np.exp(one).sum(-1, keepdims=True) for one in (theirs, student))
    loss, gradient = jax.value_and_grad(logits_loss)(jnp.asarray(student), jnp.asarray(theirs))
    wanted = [
        np.sum(one[~excluded] * np.log(one[~excluded] / other[~excluded])) for one, other in zip(p, q, strict=True)
    ]
    assert float(loss) == pytest.approx(np.mean(wanted), rel=tolerance("float64"))
    assert np.allclose(gradient, (q - p) / 5, rtol=0, atol=tolerance("float64"))


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float16"])
def test_relative_errors_are_summed_over_weights_and_averaged_over_features(x64: None, dtype: str):
    ours, theirs = ({"a": random_array((3, 4), seed, dtype), "b": random_array((5,), seed, dtype)} for seed in (0, 1))
    wide = "float64" if dtype == "float16" else dtype
    total = 0.0
    for name in ours:
        difference = (ours[name] - theirs[name]).astype(wide)
        total += np.linalg.norm(difference) ** 2 / np.linalg.norm(theirs[name].astype(wide)) ** 2
    student, teacher = (jax.tree.map(jnp.asarray, one) for one in (ours, theirs))
    near = tolerance("float32" if dtype == "float16" else "float64")
    assert float(weights_loss(student, teacher)) == pytest.approx(total, rel=near)
    assert float(features_loss(student, teacher)) == pytest.approx(total / 2, rel=near)


@pytest.mark.parametrize("decay", ["cosine", "constant"])
@pytest.mark.parametrize("share", [0.0, 0.025, 0.05, 0.25, 1.0])
def test_rates_rise_and_fall(decay: Any, share: float):
    rate = warm_up(2.0, 40, share=share, decay=decay)
    rising = round(40 * share)
    wanted = [2.0 * (step + 1) / rising for step in range(rising)]
    for step in range(rising, 40):
        fallen = math.cos(math.pi / 2 * (step - rising) / (40 - rising)) ** 2
        wanted.append(2.0 if decay == "constant" else 2.0 * fallen)
    assert [float(rate(step)) for step in range(40)] == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_rates_are_those_of_torch():
    pytest.importorskip("torch")
    from adntn_torch.training import rate_factor  # noqa: PLC0415

    rate = warm_up(3.0, 25, share=0.2)
    assert [float(rate(step)) for step in range(30)] == pytest.approx(
        [3.0 * rate_factor(step, 25, 5) for step in range(30)], rel=1e-5, abs=1e-6
    )


def test_cores_take_their_own_rate_in_equinox():
    keys = jax.random.split(jax.random.key(0))
    model = eqx.nn.Sequential(
        [adntn_jax.equinox.Linear(32, 16, key=keys[0], topology=TTN), eqx.nn.Linear(16, 4, key=keys[1])]
    )
    parameters = eqx.filter(model, eqx.is_inexact_array)
    optimiser = cores_and_others(cores=optax.sgd(2.0), others=optax.sgd(0.5))
    gradient = eqx.filter_grad(lambda model: model(jnp.ones(32)).sum())(model)
    updates, _ = optimiser.update(gradient, optimiser.init(parameters), parameters)
    for name, core in updates.layers[0].cores.items():
        assert jnp.array_equal(core, -2.0 * gradient.layers[0].cores[name])
        assert jnp.any(core != 0)
    assert jnp.array_equal(updates.layers[0].bias, -0.5 * gradient.layers[0].bias)
    assert jnp.array_equal(updates.layers[1].weight, -0.5 * gradient.layers[1].weight)


def test_cores_take_their_own_rate_in_nnx():
    model = adntn_jax.nnx.Linear(32, 16, rngs=nnx.Rngs(0), topology=TTN)
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    optimiser = nnx.Optimizer(model, cores_and_others(cores=optax.sgd(2.0), others=optax.sgd(0.5)), wrt=nnx.Param)
    gradient = nnx.grad(lambda model: model(jnp.ones((1, 32))).sum())(model)
    optimiser.update(model, gradient)
    assert jnp.array_equal(model.bias[...], before["bias"][...] - 0.5 * gradient["bias"][...])
    top = before["cores"]["top"][...] - 2.0 * gradient["cores"]["top"][...]
    assert jnp.array_equal(model.cores["top"][...], top)


def test_labels_are_by_name():
    labels = core_labels({"layer": {"cores": {"top": 1.0}, "bias": 1.0}, "cores_of_others": 1.0})
    assert labels == {"layer": {"cores": {"top": "cores"}, "bias": "others"}, "cores_of_others": "others"}


def test_objectives_are_differentiated_and_compiled():
    layer = adntn_jax.equinox.Linear(8, 8, key=jax.random.key(0), topology=TTN)
    target = jnp.asarray(random_array((8, 8), dtype="float32"))

    @jax.jit
    def loss(cores: dict[str, jax.Array]) -> jax.Array:
        return weights_loss({"layer": eqx.tree_at(lambda one: one.cores, layer, cores).weight}, {"layer": target})

    gradient = jax.grad(loss)(layer.cores)
    weight, pullback = jax.vjp(lambda cores: eqx.tree_at(lambda one: one.cores, layer, cores).weight, layer.cores)
    (wanted,) = pullback(2 * (weight - target) / jnp.sum(target**2))
    for name, core in wanted.items():
        assert jnp.allclose(gradient[name], core, rtol=tolerance("float32"), atol=tolerance("float32"))


A, B = jnp.ones((2, 3)), jnp.ones((3, 2))
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "temperature": (lambda: logits_loss(A, A, temperature=-1.0), "above 0, got -1.0"),
    "logits": (lambda: logits_loss(A, B), r"logits have shape \(2, 3\), those to learn from \(3, 2\)"),
    "no features": (lambda: features_loss({"a": A}, {}), "features of at least one name"),
    "missing features": (lambda: features_loss({"a": A}, {"b": A}), "no features for 'b', only for 'a'"),
    "missing weight": (lambda: weights_loss({}, {"b": A}), "no weights for 'b', only for nothing"),
    "weights": (lambda: weights_loss({"a": A}, {"a": B}), r"weights 'a' have shape \(2, 3\)"),
    "steps": (lambda: warm_up(1.0, -2), "steps must be at least 1, got -2"),
    "share": (lambda: warm_up(1.0, 2, share=2.0), "share must be from 0 to 1, got 2.0"),
    "decay": (lambda: warm_up(1.0, 2, decay="linear"), "one of cosine, constant, got 'linear'"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_refused(call: Callable[[], Any], message: str):
    with pytest.raises(ValueError, match=message):
        call()
