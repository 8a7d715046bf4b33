"""Generated layers in place of the dense ones of an existing network, and back.

Both ways, every replacement is built and checked before the first one is put in: what fails leaves the model as it was.
Which layers the rules choose, and which of these can be replaced at all, is in `choose`.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from adntn.backends import Differentiation
from adntn.program.schedule import checked_schedule
from adntn.program.task import ScheduleName
from adntn.topologies.layers import TopologyOptions
from adntn_torch.attention import MultiheadAttention
from adntn_torch.batched import BatchedLinear
from adntn_torch.choose import Choice, Rule, above, check_expandable, chosen, generated_kind, weights_of
from adntn_torch.embedding import Embedding
from adntn_torch.generated import DELTAS, GeneratedLayer

__all__ = ["Compression", "Row", "Rule", "above", "compress", "expand", "generated_layers", "layers_and_deltas"]


@dataclass(frozen=True)
class Row:
    """One replaced layer.

    Attributes:
        name: the layer's name in the model.
        shape: the weight's shape.
        topology: how it is now generated, as text.
        before: number of weights.
        after: number of parameters that generate them.
    """

    name: str
    shape: tuple[int, ...]
    topology: str
    before: int
    after: int

    @property
    def ratio(self) -> float:
        """How many weights each parameter generates."""
        return self.before / self.after


@dataclass(frozen=True)
class Compression:
    """What `compress` did; printed, a table.

    Attributes:
        rows: the replaced layers, in the model's order; they count weights without biases.
        before: parameters of the whole network before, everything included.
        after: the same now.
    """

    rows: tuple[Row, ...]
    before: int
    after: int

    @property
    def ratio(self) -> float:
        """The whole network's parameters before, divided by those now."""
        return self.before / self.after

    def table(self) -> Table:
        """Return a table for a rich console: one line for each replaced layer and one for the whole network."""
        return self._table(box.HEAVY_HEAD)

    def _table(self, lines: box.Box) -> Table:
        table = Table(box=lines)
        for title in ("layer", "shape", "topology"):
            table.add_column(title, overflow="fold")  # on a narrow screen over several lines, never cut off
        for title in ("parameters before", "after", "ratio"):
            table.add_column(title, justify="right")
        for row in self.rows:
            table.add_row(Text(row.name), " x ".join(map(str, row.shape)), Text(row.topology), *_numbers(row))
        table.add_section()
        table.add_row("whole network", "", "", *_numbers(self))
        return table

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        text = io.StringIO()  # plain characters, as wide as need be: this may go to a log file
        Console(file=text, width=10_000, color_system=None, force_terminal=False).print(self._table(box.MARKDOWN))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines() if line.strip())


def _numbers(counts: Row | Compression) -> tuple[str, str, str]:
    return f"{counts.before:,}", f"{counts.after:,}", f"{counts.ratio:,.1f}"


def compress(
    model: nn.Module,
    rules: Mapping[str, TopologyOptions | None] | Rule,
    *,
    seed: int | None = 0,
    differentiation: Differentiation | None = None,
    engine: str | None = None,
    schedule: ScheduleName = "auto",
    memory_limit: int | None = None,
    std: float | None = None,
) -> Compression:
    """Replace layers of a network, in place, by generated ones; return what was replaced.

    >>> import adntn
    >>> model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
    >>> compression = compress(model, {"0": adntn.TTN.options(bond=2)})
    >>> model[0].generator.shape, compression.after < compression.before
    ((512, 256), True)

    Replaced are `torch.nn.Linear`, `Conv1d` to `3d`, `ConvTranspose1d` to `3d`, `Embedding` and the q, k and v of
    `MultiheadAttention`, whose `out_proj` is a `Linear` with a name of its own. A new layer keeps the bias (the same
    parameter), dtype, device and mode. Its weight is not fitted to the old one (see `fit`): train it. Its cores are
    learned even if the old weight was frozen. Make the optimiser afterwards: one made before still holds the old
    weights.

    Args:
        model: changed in place.
        rules: from names to options, such as {"features.0": None, "features.*": adntn.MERA.options(bond=2)}. Names
            may be patterns with *, ? and [...]; they match whole names, and * also matches dots. The first name that
            matches a layer decides; None leaves it dense. Or a function of (name, module) that returns options or
            None, such as `above(100_000, options)`.
        seed: each layer draws its cores from this seed and its own name; None draws from torch's generator.
        differentiation: "native" or "adjoint", as in `adntn_torch.Linear`, for every replaced layer.
        engine: the array library that computes the weights, as in `adntn_torch.Linear`, for every replaced layer.
        schedule, memory_limit: how each new weight meets its input, as in `adntn_torch.Linear`. Embeddings gather rows
            in all schedules but "materialise"; attention makes its weights in one piece.
        std: standard deviation of the new weights at the start; None keeps that of each replaced weight.

    Raises:
        ValueError: if a name matches no layer, nothing is chosen, or a chosen layer cannot be replaced: another kind,
            the model itself, depthwise, tied to another, parametrized or hooked, already generated, NaN in its weight,
            or of a shape that its options do not accept. The model is then as it was.
        ImportError: if the engine is not installed or does not work here; the model is then as it was.
    """
    checked_schedule(schedule, memory_limit)
    choices = chosen(model, rules)
    before = _count(model)
    replacements: dict[str, nn.Module] = {}
    rows: list[Row] = []
    for choice in choices:
        layer = _generated(
            choice,
            seed,
            differentiation=differentiation,
            engine=engine,
            schedule=schedule,
            memory_limit=memory_limit,
            std=std,
        )
        replacements[choice.name] = layer
        weights = weights_of(choice.module)
        stored = sum(one.generator.parameters for one in _parts(layer))
        shape, count = _shape(layer), sum(weight.numel() for weight in weights)
        rows.append(Row(choice.name, shape, str(choice.topology), count, stored))
    _swap(model, replacements)
    return Compression(tuple(rows), before, _count(model))


def expand(model: nn.Module) -> nn.Module:
    """Replace every generated layer, in place, by the dense one with the weight that it generates; return the model.

    Outputs are the same up to rounding. Biases are kept (the same parameters), weights are new parameters; adapters
    stay as they are.
    A model that is itself a generated layer cannot change in place: its dense layer is returned.

    Raises:
        ValueError: if a generated layer has hooks or a parametrization that would be lost; the model is then as it was.
    """
    everything = dict(model.named_modules(remove_duplicate=False))
    attentions = {name: module for name, module in everything.items() if isinstance(module, MultiheadAttention)}
    theirs = {id(layer) for attention in attentions.values() for layer in attention.projections}
    layers = {name: layer for name, layer in generated_layers(model).items() if id(layer) not in theirs}
    replaced: dict[str, GeneratedLayer | MultiheadAttention] = {**attentions, **layers}  # then their output layers
    for name, layer in replaced.items():
        check_expandable(name, layer)
    dense = {id(layer): layer.to_dense() for layer in replaced.values()}
    if "" in replaced:
        expanded = dense[id(model)]
        _swap(expanded, {name: dense[id(layer)] for name, layer in replaced.items() if name})
        return expanded
    _swap(model, {name: dense[id(layer)] for name, layer in replaced.items()})
    return model


def generated_layers(model: nn.Module) -> dict[str, GeneratedLayer]:
    """Return every generated layer of a model by its name; one that has two names stands there twice.

    The deltas of adapters are none: they add to a weight, and stand for no dense layer.
    """
    return {name: layer for name, layer in layers_and_deltas(model).items() if DELTAS not in name.split(".")}


def layers_and_deltas(model: nn.Module) -> dict[str, GeneratedLayer]:
    """Return all that has cores by its name: the generated layers, and those in the deltas of adapters."""
    modules = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in modules if isinstance(module, GeneratedLayer)}


def _count(model: nn.Module) -> int:
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"parameter {name!r} has no shape yet: run the model on one batch first")
    return sum(parameter.numel() for parameter in model.parameters())


def _parts(layer: GeneratedLayer | MultiheadAttention) -> tuple[GeneratedLayer, ...]:
    return layer.projections if isinstance(layer, MultiheadAttention) else (layer,)


def _shape(layer: GeneratedLayer | MultiheadAttention) -> tuple[int, ...]:
    """Return the shape of what is generated; of attention with three generators, the weights beside each other."""
    first, *others = (one.generator.shape for one in _parts(layer))
    return (first[0], sum(shape[1] for shape in (first, *others))) if others else first


def _generated(choice: Choice, seed: int | None, **options: Any) -> GeneratedLayer | MultiheadAttention:
    """Return the layer that replaces a chosen one; the options are those of `GeneratedLayer.from_dense`."""
    kind: Any = generated_kind(choice.module)
    if kind is MultiheadAttention:
        del options["schedule"], options["memory_limit"]
    elif kind is BatchedLinear:
        options |= {"schedule": "auto", "memory_limit": None}
    elif kind is Embedding and options["schedule"] != "materialise":
        options["schedule"] = "auto" if options["schedule"] == "auto" else "gather"
    own_seed = None if seed is None else zlib.crc32(f"{seed}/{choice.name}".encode())
    try:
        layer: GeneratedLayer | MultiheadAttention = kind.from_dense(
            choice.module, choice.topology, seed=own_seed, **options
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"layer {choice.name!r} cannot be compressed: {error}") from error
    stored = sum(one.generator.parameters for one in _parts(layer))
    weights = sum(math.prod(one.generator.shape) for one in _parts(layer))
    if stored >= weights:
        raise ValueError(
            f"layer {choice.name!r} cannot be compressed: {choice.topology} stores {stored:,} numbers for {weights:,}"
            " weights"
        )
    return layer


def _swap(model: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Put modules in place of others, all or none."""
    done: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for name, module in replacements.items():
            path, _, child = name.rpartition(".")
            parent = model.get_submodule(path)
            done.append((parent, child, parent.get_submodule(child)))
            setattr(parent, child, module)
    except BaseException:
        for parent, child, module in reversed(done):
            parent._modules[child] = module
        raise
