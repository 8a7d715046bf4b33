"""Models of Equinox and NNX in files: every array comes back, and another network is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

eqx = pytest.importorskip("equinox")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

import adntn  # noqa: E402
from adntn_jax.equinox import Conv2d, Linear  # noqa: E402
from adntn_jax.files import load_compressed, save_compressed  # noqa: E402

TTN = adntn.TTN.options(bond=2)


class Network(eqx.Module):
    convolution: Conv2d
    layers: dict[str, Any]
    norm: eqx.nn.LayerNorm
    name: str = eqx.field(static=True, default="network")

    def __init__(self, topology: Any = TTN, width: int = 32, dtype: Any = jnp.float32) -> None:
        keys = jax.random.split(jax.random.key(0), 4)
        self.convolution = Conv2d(8, 16, 3, key=keys[0], topology=adntn.MERA.options(bond=2), dtype=dtype)
        self.layers = {
            "first": Linear(16, width, key=keys[1], topology=topology, dtype=dtype),
            "last": eqx.nn.Linear(width, 4, key=keys[2], dtype=dtype),
        }
        self.norm = eqx.nn.LayerNorm(16, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(self.convolution(x).mean((1, 2)))
        return self.layers["last"](jax.nn.relu(self.layers["first"](x)))


def moved(model: Any) -> Any:
    """The model with other numbers than those with which it starts."""
    return jax.tree.map(lambda leaf: leaf * 1.25 if eqx.is_array(leaf) else leaf, model)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_model_comes_back_as_it_was(dtype: Any, tmp_path: Path) -> None:
    model = moved(Network(dtype=dtype))
    save_compressed(model, tmp_path / "file")
    loaded = load_compressed(lambda: Network(dtype=dtype), tmp_path / "file")
    assert eqx.tree_equal(loaded, model)
    x = jnp.ones((8, 5, 5), dtype)
    assert jnp.array_equal(loaded(x), model(x))


def test_other_libraries_read_the_weights(tmp_path: Path) -> None:
    model = moved(Network())
    save_compressed(model, tmp_path / "file")
    loaded = adntn.load(tmp_path / "file")
    assert set(loaded) == {"convolution.weight", "layers.first.weight"}
    generator, cores = loaded["layers.first.weight"]
    expected = np.asarray(model.layers["first"].weight)
    assert np.linalg.norm(generator.weight(cores) - expected) < 500 * np.finfo("float32").eps * np.linalg.norm(expected)
    assert "layers.last.weight" in load_file(tmp_path / "file")


OTHERS = {
    "another generator": (lambda: Network(adntn.TTN.options(bond=3)), "in another way are 'layers.first.weight'"),
    "another width": (lambda: Network(width=64), "other shapes have .*'layers.first.bias'"),
    "another network": (lambda: {"a": Network()}, "the file lacks 'a.convolution.cores"),
    "dense": (
        lambda: eqx.tree_at(lambda m: m.layers["first"], Network(), eqx.nn.Linear(16, 32, key=jax.random.key(0))),
        "the file generates, and the model does not, 'layers.first.weight'",
    ),
}


@pytest.mark.parametrize(("build", "words"), OTHERS.values(), ids=OTHERS)
def test_a_file_of_another_network_is_refused_with_names(build: Callable[[], Any], words: str, tmp_path: Path) -> None:
    save_compressed(Network(), tmp_path / "file")
    with pytest.raises(ValueError, match=words) as raised:
        load_compressed(build, tmp_path / "file")
    assert "is of another network" in str(raised.value)


def test_a_model_of_nnx_comes_back_but_for_its_keys(tmp_path: Path) -> None:
    nnx = pytest.importorskip("flax.nnx")
    import adntn_jax.nnx as generated  # noqa: PLC0415

    class Model(nnx.Module):
        def __init__(self, seed: int) -> None:
            rngs = nnx.Rngs(seed)
            self.first = generated.Linear(16, 16, rngs=rngs, topology=TTN)
            self.rest = nnx.List([nnx.BatchNorm(16, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)])
            self.last = nnx.Linear(16, 4, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.rest:
                x = layer(self.first(x))
            return self.last(x)

    model = Model(seed=0)
    model.rest[0].mean[...] = jnp.arange(16.0)
    save_compressed(model, tmp_path / "file")
    loaded = load_compressed(lambda: Model(seed=1), tmp_path / "file")
    assert jnp.array_equal(loaded.rest[0].mean[...], jnp.arange(16.0))
    assert loaded.rest[1].rngs.key[...] == Model(seed=1).rest[1].rngs.key[...]
    loaded.eval()
    model.eval()
    assert jnp.array_equal(loaded(jnp.ones((2, 16))), model(jnp.ones((2, 16))))
    nnx.grad(lambda model: model(jnp.ones((2, 16))).sum())(loaded)
    assert set(adntn.load(tmp_path / "file")) == {"first.weight"}


def test_a_model_without_generated_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have generated layers"):
        save_compressed(eqx.nn.Linear(2, 2, key=jax.random.key(0)), tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    save_compressed(Network(), tmp_path / "file")
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-1])
    with pytest.raises(adntn.FormatError, match="is damaged"):
        load_compressed(Network, tmp_path / "file")
