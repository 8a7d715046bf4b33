"""Adapters of a whole model: added, switched, merged, taken off."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from adntn.program.task import ScheduleName
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions
from adntn_torch.adapters.adapted import (
    Adapted,
    adapted_layers,
    attach,
    detach,
    frozen_weight,
    is_transposed,
    kind_of,
    merge_layer,
    product_of,
    unmerge_layer,
)
from adntn_torch.adapters.delta import Delta, checked_dropout, delta_of
from adntn_torch.adapters.targets import Targets, targeted
from adntn_torch.choose import KINDS
from adntn_torch.compress import Row
from adntn_torch.generated import GeneratedLayer


@dataclass(frozen=True)
class Adaptation:
    """What `adapt` or `load_adapter` did; printed, a line for each layer.

    Attributes:
        name: the adapter's.
        rows: the adapted layers, in the model's order, with the number of weights and of trained numbers.
        parameters: of the whole model, the adapter included.
    """

    name: str
    rows: tuple[Row, ...]
    parameters: int

    @property
    def trained(self) -> int:
        """How many numbers the adapter trains."""
        return sum(row.after for row in self.rows)

    def __str__(self) -> str:
        share = 100 * self.trained / self.parameters
        lines = [
            f"adapter {self.name!r}: {self.trained:,} trained parameters of {self.parameters:,} ({share:.4f} %)"
            f" in {len(self.rows)} layers"
        ]
        for row in self.rows:
            shape = " x ".join(map(str, row.shape))
            lines.append(f"  {row.name}: {shape}, {row.after:,} numbers, {row.topology}")
        return "\n".join(lines)


def adapt(
    model: nn.Module,
    targets: Targets,
    *,
    topology: TopologyOptions = DEFAULT_TOPOLOGY,
    name: str = "default",
    scaling: float = 1.0,
    dropout: float = 0.0,
    seed: int | None = 0,
    std: float | None = None,
    schedule: ScheduleName = "auto",
    memory_limit: int | None = None,
) -> Adaptation:
    """Add an adapter: a generated delta, zero at the start, to weights that are frozen; return what was adapted.

    >>> import adntn
    >>> model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))
    >>> adaptation = adapt(model, ["0"], topology=adntn.TTN.options(bond=4, activation="tanh"))
    >>> adaptation.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    True

    The model changes in place, and so that nothing but the new adapter's cores is trained. The adapter acts at once,
    instead of others that did. A layer's output becomes x @ (W + scaling * G(cores)).T + bias.

    Args:
        model: whose weights stay as they are.
        targets: what PEFT takes as `target_modules`: a list of names, ends of names ("query" means
            "encoder.layer.0.attention.self.query") or patterns with *; one string, a regular expression that matches
            whole names; or "all-linear", every linear layer but a language model's head. Or rules as for `compress`:
            from such names to options, the first that matches deciding, None leaving a layer alone; or a function.
        topology: how the deltas are generated, such as `adntn.TTN.options(bond=4)`; `adntn.LowRank.options(rank=8)`
            is LoRA.
        name: of the adapter.
        scaling: by which the delta is multiplied; LoRA's alpha / r.
        dropout: share of the delta's input that is set to zero in training mode; for linear layers and convolutions.
        seed: each layer draws its cores from this seed and its own name; None draws from torch's generator.
        std: the deviation of the delta if no core were zero, by default that of a new layer: a unit for the cores.
        schedule, memory_limit: how the delta meets x, as in `adntn_torch.Linear`, but "auto" without a limit takes the
            fastest.

    Raises:
        TypeError, ValueError: if an argument is wrong, a target matches nothing, or a layer cannot be adapted: another
            kind, a weight that is shared, parametrized, quantised; or of a shape that the options do not accept. The
            model is then as it was.
    """
    found = targeted(model, targets, topology)
    check_name(model, name)
    deltas = {
        target.name: make_delta(
            target.name,
            target.module,
            target.topology,
            scaling=scaling,
            dropout=dropout,
            seed=None if seed is None else zlib.crc32(f"{seed}/{target.name}".encode()),
            std=std,
            schedule=schedule,
            memory_limit=memory_limit,
        )
        for target in found
    }
    return attach_all(model, name, deltas, trainable=True)


def make_delta(
    layer_name: str,
    layer: nn.Module,
    topology: TopologyOptions,
    *,
    scaling: float = 1.0,
    dropout: float = 0.0,
    seed: int | None = 0,
    std: float | None = None,
    schedule: ScheduleName = "auto",
    memory_limit: int | None = None,
) -> Delta:
    """Return a delta for a layer, zero at the start.

    Raises:
        ValueError: if the options do not suit the layer, which the error names.
    """
    kind, weight = kind_of(layer), frozen_weight(layer)
    generated = next((KINDS[one] for one in kind.__mro__ if one in KINDS), None)
    if generated is None or not issubclass(generated, GeneratedLayer):
        generated = None
    try:
        if checked_dropout(dropout) and (product_of(kind) is None or issubclass(kind, nn.Embedding)):
            raise ValueError(f"dropout must be 0 for a {kind.__name__}, which has no x to drop, got {dropout}")
        return delta_of(
            layer,
            weight,
            generated,
            delta_shape(layer),
            topology,
            scaling=scaling,
            dropout=dropout,
            seed=seed,
            std=std,
            schedule=schedule,
            memory_limit=memory_limit,
        )
    except ValueError as error:
        raise ValueError(f"layer {layer_name!r} cannot be adapted: {error}") from error


def delta_shape(layer: nn.Module) -> tuple[int, ...]:
    """Return the shape of a layer's delta: (out, in, ...), also where the weight is transposed."""
    shape = tuple(frozen_weight(layer).shape)
    return shape[::-1] if is_transposed(kind_of(layer)) else shape


def attach_all(model: nn.Module, name: str, deltas: Mapping[str, Delta], *, trainable: bool) -> Adaptation:
    """Put the deltas of a new adapter in, and let it act; return what was adapted."""
    model.requires_grad_(False)
    rows = []
    for layer_name, delta in deltas.items():
        attach(model.get_submodule(layer_name), name, delta)
        generator = delta.layer.generator
        topology = str(delta.layer.topology)
        rows.append(Row(layer_name, generator.shape, topology, math.prod(generator.shape), delta.trained))
    set_adapter(model, name, trainable=trainable)
    return Adaptation(name, tuple(rows), sum(parameter.numel() for parameter in model.parameters()))


def adapter_names(model: nn.Module) -> list[str]:
    """Return the names of a model's adapters, in the order in which they came."""
    return list(dict.fromkeys(name for layer in adapted_layers(model).values() for name in layer.adntn_delta))


def set_adapter(model: nn.Module, names: str | Sequence[str], *, trainable: bool = True) -> None:
    """Let the named adapters act, added up, and no others; () for none.

    Args:
        model: with adapters.
        names: one name, or several.
        trainable: whether their cores are to be trained; those of the others are not.

    Raises:
        ValueError: if there is no adapter of a name, or adapters are merged.
    """
    wanted = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    layers = _unmerged(model)
    for name in wanted:
        _check_known(model, name)
    for layer in layers.values():
        layer.adntn_active = tuple(name for name in wanted if name in layer.adntn_delta)
        for name, delta in layer.adntn_delta.items():
            delta.requires_grad_(trainable and name in wanted)


def remove_adapter(model: nn.Module, name: str) -> None:
    """Take an adapter off; layers without any adapter are then what they were before.

    Raises:
        ValueError: if there is no adapter of that name, or adapters are merged.
    """
    layers = _unmerged(model)
    _check_known(model, name)
    for layer in layers.values():
        if name in layer.adntn_delta:
            detach(layer, name)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Let no adapter act within a `with` block: the model is then what it was before.

    Raises:
        ValueError: if adapters are merged.
    """
    active = {layer: layer.adntn_active for layer in _unmerged(model).values()}
    for layer in active:
        layer.adntn_active = ()
    try:
        yield
    finally:
        for layer, names in active.items():
            layer.adntn_active = names


def merge(model: nn.Module) -> None:
    """Write the weights with the deltas that act over the frozen ones: as fast as without adapters.

    The frozen weights are kept beside them, so that `unmerge` restores them to the bit; subtracting the deltas again
    would leave rounding behind. State dicts hold the frozen weights all the while. The cores learn nothing meanwhile,
    and a warning says so in training mode.

    Raises:
        ValueError: if adapters are merged already, there are none, or a merged weight would not be finite; nothing is
            merged then.
    """
    layers = _unmerged(model)
    try:
        for layer in layers.values():
            if layer.adntn_active:
                merge_layer(layer)
    except ValueError:
        for layer in layers.values():
            unmerge_layer(layer)
        raise


def unmerge(model: nn.Module) -> None:
    """Put the frozen weights back as they were before `merge`, to the bit.

    Raises:
        ValueError: if nothing is merged.
    """
    merged = [layer for layer in adapted_layers(model).values() if layer.adntn_original is not None]
    if not merged:
        raise ValueError("no adapter of this model is merged")
    for layer in merged:
        unmerge_layer(layer)


def unload(model: nn.Module, *, merged: bool = False) -> nn.Module:
    """Take all adapters off and return the model, which is then made of the layers that it was made of before.

    Args:
        model: changed in place.
        merged: whether the weights keep the deltas that act, or that are merged: a plain model, without a way back.

    Raises:
        ValueError: if there are no adapters, adapters are merged and are not to stay so, or a merged weight would not
            be finite.
    """
    layers = adapted_layers(model)
    if not merged:
        _unmerged(model)
    elif all(layer.adntn_original is None for layer in layers.values()):
        merge(model)
    for layer in layers.values():
        layer.adntn_original = None
        for name in list(layer.adntn_delta):
            detach(layer, name)
    return model


def check_name(model: nn.Module, name: str) -> None:
    """Check that a new adapter may have a name.

    Raises:
        TypeError, ValueError: if it is no name for a module, or taken; or if adapters are merged.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    if not name.isprintable() or not name.strip() or any(mark in name for mark in "./\\"):
        raise ValueError(f"name must not be empty or contain dots or slashes, got {name!r}")
    if hasattr(nn.ModuleDict, name):
        raise ValueError(f"name {name!r} is taken by torch.nn.ModuleDict; give the adapter another")
    if name in adapter_names(model):
        raise ValueError(
            f"the model has an adapter {name!r} already; remove it first, or give the new one another name"
        )
    if adapted_layers(model):
        _unmerged(model)


def _check_known(model: nn.Module, name: str) -> None:
    if name not in (known := adapter_names(model)):
        raise ValueError(f"the model has no adapter {name!r}; it has {', '.join(map(repr, known))}")


def _unmerged(model: nn.Module) -> dict[str, Adapted]:
    """Return the adapted layers.

    Raises:
        ValueError: if there are none, or adapters are merged.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError("the model has no adapters: see adntn_torch.adapt")
    if any(layer.adntn_original is not None for layer in layers.values()):
        raise ValueError("adapters are merged into the weights; unmerge them first")
    return layers
