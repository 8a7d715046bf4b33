"""Training in JAX: objectives as functions of arrays, a rate that rises, and optimisers for cores and all else.

`adntn_torch.training` has the same. In JAX the loop is one's own, a few lines with optax (`adntn[optax]`):

>>> import adntn, adntn_jax.equinox, equinox as eqx
>>> dense = eqx.nn.Linear(64, 64, key=jax.random.key(0))
>>> model = adntn_jax.equinox.Linear(64, 64, key=jax.random.key(1), topology=adntn.TTN.options(bond=4))
>>> steps = 30
>>> optimiser = cores_and_others(
...     cores=optax.adam(warm_up(1e-2, steps)), others=optax.adamw(warm_up(1e-3, steps), weight_decay=1e-2)
... )
>>> state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
>>> def objective(model, x):
...     student, teacher = jax.vmap(model)(x), jax.vmap(dense)(x)
...     distilled = logits_loss(student, teacher, temperature=2.0)
...     return distilled + 0.1 * weights_loss({"only": model.weight}, {"only": dense.weight})
>>> @eqx.filter_jit
... def step(model, state, x):
...     loss, gradient = eqx.filter_value_and_grad(objective)(model, x)
...     updates, state = optimiser.update(gradient, state, eqx.filter(model, eqx.is_inexact_array))
...     return eqx.apply_updates(model, updates), state, loss
>>> losses = []
>>> for number in range(steps):
...     model, state, loss = step(model, state, jax.random.normal(jax.random.key(number), (32, 64)))
...     losses.append(float(loss))
>>> losses[-1] < 0.9 * losses[0]
True

Checkpoints are others' craft: `equinox.tree_serialise_leaves`, or orbax-checkpoint, of (model, state, number of the
step). What is random is a function of a key, so that nothing else is to be kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adntn.rates import Decay, rising_steps

__all__ = ["core_labels", "cores_and_others", "features_loss", "logits_loss", "warm_up", "weights_loss"]


def logits_loss(student: jax.Array, teacher: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) over the last axis, the mean over all others.

    T^2 makes gradients of the same size at every temperature. Where the teacher has -inf, nothing is added.

    Raises:
        ValueError: if the shapes differ, or the temperature is not a number above 0.

    Source: G. Hinton, O. Vinyals, J. Dean, arXiv:1503.02531.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
    _check_alike("logits", student, teacher)
    ours, theirs = (jax.nn.log_softmax(one / temperature) for one in (student, teacher))
    excluded = jnp.isneginf(theirs)  # p log p is 0 there, which 0 * -inf is not
    ours, theirs = (jnp.where(excluded, 0.0, one) for one in (ours, theirs))
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(theirs) * (theirs - ours), -1))


def features_loss(student: Mapping[str, jax.Array], teacher: Mapping[str, jax.Array]) -> jax.Array:
    """Return the squared relative error |student - teacher|^2 / |teacher|^2, the mean over the teacher's features.

    Raises:
        ValueError: if there are none, the student lacks one, or one has another shape.

    Source: A. Romero et al., FitNets, arXiv:1412.6550.
    """
    return jnp.mean(_relative_errors("features", student, teacher))


def weights_loss(weights: Mapping[str, jax.Array], targets: Mapping[str, jax.Array]) -> jax.Array:
    """Return |W - target|^2 / |target|^2, summed over the targets.

    >>> float(weights_loss({"a": jnp.ones((2, 2))}, {"a": 2 * jnp.ones((2, 2))}))
    0.25

    Args:
        weights: by names of one's choice, such as {"0": model.layers[0].weight}.
        targets: of the same names.

    Raises:
        ValueError: if there are none, one has no weight, or another shape.
    """
    return jnp.sum(_relative_errors("weights", weights, targets))


def warm_up(peak: float, steps: int, *, share: float = 0.1, decay: Decay = "cosine") -> optax.Schedule:
    """Return a rate for optax: a straight rise to the peak, then half a wave down to zero, or constant.

    It is that of `adntn_torch.training.warm_up`, step by step.

    Args:
        peak: the highest rate.
        steps: how many there will be.
        share: part of these in which the rate rises.
        decay: "cosine" or "constant".

    Raises:
        ValueError: if there is less than one step, or an argument has no such value.
    """
    rising = rising_steps(steps, share, decay)
    falling = optax.cosine_decay_schedule(peak, max(1, steps - rising))
    after = falling if decay == "cosine" else optax.constant_schedule(peak)
    if rising == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(peak / rising, peak, max(1, rising - 1)), after], [rising])


def core_labels(parameters: Any) -> Any:
    """Return a tree of "cores" and "others" for `optax.multi_transform`, and masks made from it.

    >>> core_labels({"cores": {"top": 1.0}, "bias": 2.0})
    {'bias': 'others', 'cores': {'top': 'cores'}}

    Cores are what a layer of Equinox or Flax NNX keeps as its `cores`, or a dictionary keeps under that name.
    """

    def label(path: tuple[Any, ...], leaf: Any) -> str:
        names = (getattr(key, "name", getattr(key, "key", None)) for key in path)
        return "cores" if "cores" in names else "others"

    return jax.tree_util.tree_map_with_path(label, parameters)


def cores_and_others(
    *, cores: optax.GradientTransformation, others: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Return an optimiser that does one thing with cores and another with all other parameters.

    Let cores take larger rates, and not decay: a weight is a product of its cores, so that the decay of each would add
    up over all levels. To clip the whole gradient, chain: `optax.chain(optax.clip_by_global_norm(1.0), ...)`.
    """
    return optax.multi_transform({"cores": cores, "others": others}, core_labels)


def _relative_errors(what: str, weights: Mapping[str, jax.Array], targets: Mapping[str, jax.Array]) -> jax.Array:
    if not targets:
        raise ValueError(f"there must be {what} of at least one name, got none")
    if missing := [name for name in targets if name not in weights]:
        there = ", ".join(map(repr, weights)) or "nothing"
        raise ValueError(f"there are no {what} for {missing[0]!r}, only for {there}")
    for name, target in targets.items():
        _check_alike(f"{what} {name!r}", weights[name], target)
    return jnp.stack([_square(weights[name] - target) / _square(target) for name, target in targets.items()])


def _square(array: jax.Array) -> jax.Array:
    """Return |array|^2, in float32 at least."""
    wide = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    return jnp.sum(jnp.real(wide * jnp.conj(wide)))


def _check_alike(what: str, student: jax.Array, teacher: jax.Array) -> None:
    if student.shape != teacher.shape:
        raise ValueError(f"{what} have shape {tuple(student.shape)}, those to learn from {tuple(teacher.shape)}")
