"""A generated weight times x, by any schedule, on any array library: what `Generator.apply` and `apply_vjp` do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from adntn.arrays import (
    ITEMSIZES,
    Array,
    Namespace,
    as_dtype,
    can_be_written,
    check_alike,
    detached,
    dtype_name,
    empty,
    is_differentiated,
    namespace_of,
)
from adntn.contracting import contracted, contracted_vjp
from adntn.machine import machine_of
from adntn.materialising import can_be_kept, materialise, materialise_back
from adntn.network import SCALE
from adntn.program.schedule import Choice, checked_schedule, choose, rounded
from adntn.program.task import ScheduleName, Task
from adntn.streaming import stream, stream_back, turned
from adntn.tiling import Tiling, tiling

if TYPE_CHECKING:
    from adntn.generator import Generator

Pullback = Callable[[Array], tuple[Array, dict[str, Array]]]


def applied(
    generator: Generator, cores: Mapping[str, Array], x: Array, schedule: ScheduleName, memory_limit: int | None
) -> Array:
    """Return x @ W.T for x of shape (..., in); see `Generator.apply`."""
    matrix = _as_matrix(generator, cores, x)
    written = can_be_written(x) and not any(is_differentiated(array) for array in (x, *cores.values()))
    name = _named(schedule, memory_limit, written)
    task = _task(generator, cores, matrix.shape[-2], training=False, streams=written)
    choice = choose(task, machine_of(cores[SCALE]), name, memory_limit)
    if choice.taken.schedule == "stream":
        _, prepared = generator.prepared({name: detached(core) for name, core in cores.items()})
        product = empty((*matrix.shape[:-1], generator.shape[-2]), x)
        stream(tiling(generator.network, generator.paths, choice.taken.plan), prepared, matrix, product)
    elif choice.taken.schedule == "contract":
        product = contracted(generator, cores, matrix)
    elif written:  # tile by tile: nothing larger than the weight is held
        tiles = tiling(generator.network, generator.paths, choice.taken.plan)
        product = _times(matrix, _made(generator, {name: detached(core) for name, core in cores.items()}, tiles))
    else:
        product = _times(matrix, generator.weight_of(cores))
    return _like(product, generator, x)


def applied_vjp(
    generator: Generator, cores: Mapping[str, Array], x: Array, schedule: ScheduleName, memory_limit: int | None
) -> tuple[Array, Pullback]:
    """Return x @ W.T and its pullback; see `Generator.apply_vjp`."""
    matrix, written = detached(_as_matrix(generator, cores, x)), can_be_written(x)
    cores = {name: detached(core) for name, core in cores.items()}
    name = _named(schedule, memory_limit, written)
    task = _task(generator, cores, matrix.shape[-2], training=True, streams=written)
    choice = choose(task, machine_of(cores[SCALE]), name, memory_limit)
    if choice.taken.schedule == "contract":
        product, pull = contracted_vjp(generator, cores, matrix)
    else:
        make = _streamed if choice.taken.schedule == "stream" else _materialised
        product, pull = make(generator, cores, matrix, choice)

    def pullback(y_bar: Array) -> tuple[Array, dict[str, Array]]:
        wanted = (*x.shape[:-1], generator.shape[-2])
        if not hasattr(y_bar, "shape") or tuple(y_bar.shape) != tuple(wanted):
            raise ValueError(f"y_bar must have the shape of y, {tuple(wanted)}, got {getattr(y_bar, 'shape', y_bar)!r}")
        check_alike({"y_bar": y_bar, "the cores": cores[SCALE]}, "y_bar and the cores")
        functions = namespace_of([x])
        x_bar, gradients = pull(functions.reshape(detached(y_bar), product.shape))
        return functions.reshape(x_bar, x.shape), gradients

    return _like(product, generator, x), pullback


def tiled_vjp(
    generator: Generator, cores: Mapping[str, Array], tiles: Tiling
) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
    """Return the same as `Generator.vjp`, keeping nothing but the cores: the pullback makes each tile again."""
    kept = {name: detached(core) for name, core in cores.items()}

    def pullback(weight_bar: Array) -> dict[str, Array]:
        generator.check_weight_bar(weight_bar, kept)
        dtype, prepared = generator.prepared(kept)
        gradients = tiles.pull_back_weight(prepared, detached(weight_bar))
        return {name: as_dtype(gradients[name], dtype) for name in kept}

    return _made(generator, kept, tiles), pullback


def _made(generator: Generator, cores: Mapping[str, Array], tiles: Tiling) -> Array:
    """Return the weight, made in these tiles."""
    _, prepared = generator.prepared(cores)
    weight = empty(generator.shape, cores[SCALE])
    tiles.write(prepared, weight)
    return weight


def _named(schedule: ScheduleName, memory_limit: int | None, written: bool) -> ScheduleName:
    """Return the schedule to choose from; arrays that cannot be written, or are differentiated, have fewer."""
    name = checked_schedule(schedule, memory_limit)
    if written:
        return name
    if name == "stream":
        raise ValueError(
            'schedule "stream" needs arrays that can be written and are not differentiated by their library;'
            " apply_vjp differentiates here, and the layers of adntn_torch and adntn_jax stream in their own way"
        )
    return "materialise" if name == "auto" and memory_limit is None else name


def _task(generator: Generator, cores: Mapping[str, Array], rows: int, *, training: bool, streams: bool) -> Task:
    return task_of(generator, dtype_name(cores[SCALE]), rows, training=training, streams=streams)


def task_of(generator: Generator, dtype: str, rows: int, *, training: bool, streams: bool = True) -> Task:
    """Return what applying a generator of cores of a number type to so many rows is, for the choice of its schedule."""
    keeps = training and streams and can_be_kept(generator.network, dtype)
    return Task(generator.network, generator.paths, rounded(rows), training, ITEMSIZES[dtype], streams, keeps=keeps)


def _as_matrix(generator: Generator, cores: Mapping[str, Array], x: Array) -> Array:
    """Return x as (rows, in), or (G, rows, in); checked."""
    if len(generator.network.layout.shape) != 2:
        raise ValueError(f"apply needs a matrix (out, in), but this generator's shape is {generator.shape}")
    features, batch = generator.shape[-1], generator.network.batch
    if not hasattr(x, "shape"):
        raise TypeError(f"x must be an array of the cores' library, got {type(x).__name__}")
    if len(x.shape) == 0 or x.shape[-1] != features:
        raise ValueError(f"x must have the shape (..., {features}), got {tuple(x.shape)}")
    if batch is not None and (len(x.shape) < 2 or x.shape[0] != batch):
        raise ValueError(f"x must have the shape ({batch}, ..., {features}), got {tuple(x.shape)}")
    generator.check(cores)
    check_alike({"x": x, "the cores": cores[SCALE]}, "x and the cores")
    lead = () if batch is None else (batch,)
    return namespace_of([x]).reshape(x, (*lead, math.prod(x.shape[len(lead) : -1]), features))


def _like(product: Array, generator: Generator, x: Array) -> Array:
    return namespace_of([product]).reshape(product, (*x.shape[:-1], generator.shape[-2]))


def _times(matrix: Array, weight: Array) -> Array:
    functions = namespace_of([weight])
    return _product(matrix, turned(weight, functions), functions)


def _product(left: Array, right: Array, functions: Namespace) -> Array:
    """Return left @ right in their number type: NumPy multiplies bfloat16 into float32."""
    return as_dtype(functions.matmul(left, right), dtype_name(left))


def _streamed(
    generator: Generator, cores: Mapping[str, Array], matrix: Array, choice: Choice
) -> tuple[Array, Pullback]:
    dtype, prepared = generator.prepared(cores)
    tiles = tiling(generator.network, generator.paths, choice.taken.plan)
    product = empty((*matrix.shape[:-1], generator.shape[-2]), matrix)
    stream(tiles, prepared, matrix, product)

    def pull(product_bar: Array) -> tuple[Array, dict[str, Array]]:
        total = as_dtype(namespace_of([matrix]).zeros_like(matrix), dtype_name(prepared[SCALE]))
        gradients = stream_back(tiles, prepared, matrix, product_bar, total)
        return as_dtype(total, dtype_name(matrix)), {name: as_dtype(gradients[name], dtype) for name in cores}

    return product, pull


def _kept(tiles: Tiling, cores: Mapping[str, Array], matrix: Array) -> tuple[Array, Pullback]:
    kept = empty(tiles.network.layout.shape, matrix)
    product = empty((matrix.shape[0], kept.shape[0]), matrix)
    materialise(tiles, cores, matrix, product, kept)

    def pull(product_bar: Array) -> tuple[Array, dict[str, Array]]:
        x_bar = empty(matrix.shape, matrix)
        gradients = materialise_back(tiles, cores, matrix, product_bar, kept=kept, x_bar=x_bar)
        return x_bar, {name: gradients[name] for name in cores}

    return product, pull


def _materialised(
    generator: Generator, cores: Mapping[str, Array], matrix: Array, choice: Choice
) -> tuple[Array, Pullback]:
    functions, recomputes = namespace_of([matrix]), choice.taken.schedule == "recompute"
    make = partial(generator.vjp, cores)
    if can_be_written(matrix):
        tiles = tiling(generator.network, generator.paths, choice.taken.plan)
        if not recomputes and can_be_kept(generator.network, dtype_name(matrix)):
            return _kept(tiles, cores, matrix)
        make = partial(tiled_vjp, generator, cores, tiles)
    made = make()
    kept = None if recomputes else made

    def pull(product_bar: Array) -> tuple[Array, dict[str, Array]]:
        weight, pull_weight = make() if kept is None else kept
        x_bar = _product(product_bar, functions.conj(weight), functions)
        del weight  # before its adjoint is made
        weight_bar = _product(turned(product_bar, functions), functions.conj(matrix), functions)
        return x_bar, pull_weight(weight_bar)

    return _times(matrix, made[0]), pull
