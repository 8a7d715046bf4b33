"""Embeddings and attention of Equinox and NNX with generated weights are theirs, with these weights put in."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

eqx = pytest.importorskip("equinox")
pytest.importorskip("flax")

from flax import nnx  # noqa: E402

import adntn  # noqa: E402
import adntn_jax.equinox  # noqa: E402
import adntn_jax.nnx  # noqa: E402
from adntn_jax.gathering import gathered  # noqa: E402

KEY = jax.random.key(0)
TTN = adntn.TTN.options(bond=2)
INDICES = jnp.asarray([[1, 29, 3], [3, -1, 31]])  # one from the end, and one beyond
INDICES_WITHIN = INDICES.at[1, 2].set(0)  # before JAX 0.9 a row beyond the end had no gradient


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", ["gather", "materialise"])
def test_equinox_embeddings_and_their_gradients_are_those_of_the_table(
    schedule: str, topology: Any, assert_agree: Any
) -> None:
    layer = adntn_jax.equinox.Embedding(30, 10, key=KEY, topology=topology, schedule=schedule)
    dense = layer.to_dense()
    assert dense.weight.dtype == "float64"
    loss = eqx.filter_jit(
        eqx.filter_value_and_grad(lambda layer: (jnp.sin(jax.vmap(jax.vmap(layer))(INDICES_WITHIN)) ** 2).sum())
    )
    (own, gradient), (expected, reference) = loss(layer), loss(dense)
    assert_agree(own, expected)
    _, pullback = layer.generator.vjp({name: np.asarray(core) for name, core in layer.cores.items()})
    assert_agree(gradient.cores, pullback(np.asarray(reference.weight)))
    assert_agree(eqx.filter_jit(layer)(INDICES), jax.vmap(jax.vmap(dense))(INDICES))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", ["gather", "materialise"])
@pytest.mark.parametrize("count", [1, 30])
def test_nnx_embeddings_and_their_gradients_are_those_of_the_table(
    schedule: str, count: int, assert_agree: Any
) -> None:
    options = {"param_dtype": jnp.float64, "topology": TTN, "schedule": schedule}
    layer = adntn_jax.nnx.Embed(count, 10, rngs=nnx.Rngs(0), **options)
    dense = layer.to_dense()
    np.testing.assert_allclose(nnx.jit(lambda layer: layer(INDICES))(layer), dense(INDICES), rtol=1e-12, atol=1e-12)

    def loss(layer: nnx.Module) -> jax.Array:
        return (jnp.sin(layer(INDICES_WITHIN)) ** 2).sum() + layer.attend(jnp.ones((2, 10))).sum()

    (own, gradient), (expected, reference) = (nnx.jit(nnx.value_and_grad(loss))(one) for one in (layer, dense))
    assert_agree(own, expected)
    _, pullback = layer.generator.vjp({name: np.asarray(core[...]) for name, core in layer.cores.items()})
    found = {name: core[...] for name, core in gradient["cores"].items()}
    assert_agree(found, pullback(np.asarray(reference["embedding"][...])))


@pytest.mark.usefixtures("x64")
def test_many_tokens_are_looked_up_in_slabs_with_the_same_gradients(assert_agree: Any) -> None:
    generator = adntn.TTN((30, 10), bond=2)
    cores = generator.init(backend="jax", dtype="float64")
    indices = jnp.arange(70).reshape(7, 10) % 30

    def loss(cores: Any, largest: int) -> jax.Array:
        return jnp.sin(gathered(generator, cores, indices, largest)).sum()

    both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    assert_agree(both(cores, 200), both(cores, 2**19))


@pytest.mark.parametrize("library", [adntn_jax.equinox.Embedding, adntn_jax.nnx.Embed])
def test_wrong_options_are_named(library: Any) -> None:
    source = {"key": KEY} if library is adntn_jax.equinox.Embedding else {"rngs": nnx.Rngs(0)}
    with pytest.raises(ValueError, match="one of gather, materialise, got 'stream'"):
        library(30, 4, schedule="stream", **source)
    with pytest.raises(ValueError, match="with the engine 'numpy', got \"gather\""):
        library(30, 4, engine="numpy", **source)
    layer = library(30, 4, **source)
    with pytest.raises((TypeError, ValueError), match="integer"):
        layer(jnp.ones(3))


@pytest.mark.usefixtures("x64")
def test_equinox_attention_is_that_of_the_dense_layer(assert_agree: Any) -> None:
    options = {"key_size": 6, "value_size": 10, "use_query_bias": True, "use_output_bias": True}
    attention = adntn_jax.equinox.MultiheadAttention(4, 16, **options, key=KEY, topology=TTN)
    dense = eqx.filter_jit(lambda attention: attention.to_dense())(attention)
    assert type(dense) is eqx.nn.MultiheadAttention
    assert [dense.use_query_bias, dense.use_key_bias, dense.use_output_bias] == [True, False, True]
    query, key, value = (jax.random.normal(KEY, shape) for shape in ((5, 16), (7, 6), (7, 10)))
    mask = jnp.tril(jnp.ones((5, 7), bool))
    run = eqx.filter_jit(lambda attention: attention(query, key, value, mask))
    assert_agree(run(attention), run(dense))
    gradients = eqx.filter_jit(eqx.filter_grad(lambda attention: jnp.sin(attention(query, key, value)).sum()))(
        attention
    )
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients.value_proj))
