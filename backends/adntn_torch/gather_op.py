"""Rows of a generated table as an operator of torch: compilers take it as it is, for any number of tokens.

They cannot trace how a lookup is planned, and a plan is for one number of tokens. An operator knows tensors and plain
values only, so that generators are known to it by a key that is the same in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adntn import Generator
from adntn.gathering import gathered, gathered_vjp

#: Generators by key.
_GENERATORS: dict[str, Generator] = {}


def registered(generator: Generator) -> str:
    """Return the key by which the operator knows a generator from now on."""
    network = generator.network
    levels = [(level.nodes, level.output, str(level.activation)) for level in network.levels]
    known = network.topology, network.layout, network.cores, levels, network.batch, generator.paths
    key = hashlib.sha256(repr(known).encode()).hexdigest()
    while _GENERATORS.get(key, generator) != generator:  # activations of one name
        key += "'"
    _GENERATORS[key] = generator
    return key


def _named(generator: Generator, cores: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(generator.core_shapes, cores, strict=True))


@torch.library.custom_op("adntn::gather_rows", mutates_args=())
def gather_rows(indices: Tensor, cores: Sequence[Tensor], key: str) -> Tensor:
    """Return the rows of a registered generator's weight, of shape (*indices.shape, ...)."""
    generator = _GENERATORS[key]
    rows: Tensor = gathered(generator, _named(generator, cores), indices).clone()  # no view, as operators want it
    return rows


@gather_rows.register_fake
def _(indices: Tensor, cores: Sequence[Tensor], key: str) -> Tensor:
    columns = _GENERATORS[key].network.layout.shape[1:]
    return cores[0].new_empty((*indices.shape, *columns))


@torch.library.custom_op("adntn::gather_rows_backward", mutates_args=())
def _gather_rows_backward(rows_bar: Tensor, indices: Tensor, cores: Sequence[Tensor], key: str) -> list[Tensor]:
    generator = _GENERATORS[key]
    _, pull_back = gathered_vjp(generator, _named(generator, cores), indices)
    gradients = pull_back(rows_bar)
    return [gradients[name].reshape(core.shape).clone() for name, core in _named(generator, cores).items()]


@_gather_rows_backward.register_fake
def _(rows_bar: Tensor, indices: Tensor, cores: Sequence[Tensor], key: str) -> list[Tensor]:
    return [torch.empty_like(core) for core in cores]


def _keep(ctx: Any, inputs: tuple[Tensor, Sequence[Tensor], str], output: Tensor) -> None:
    indices, cores, ctx.key = inputs
    ctx.save_for_backward(indices, *cores)


def _backward(ctx: Any, rows_bar: Tensor) -> tuple[Any, ...]:
    indices, *cores = ctx.saved_tensors
    return None, _gather_rows_backward(rows_bar, indices, cores, ctx.key), None


gather_rows.register_autograd(_backward, setup_context=_keep)
