"""Compressed models as ONNX: with the generators in the graph, so that the file stays small, or expanded.

`torch.export.export(model, args)` needs nothing of ours: layers are traced by functions that torch knows. For ONNX the
exporter of torch has to be kept from computing the weights itself, which is what its optimiser does with all that
depends on parameters alone.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from adntn.atomic import whole_file
from adntn_torch.compress import expand as expand_model
from adntn_torch.compress import generated_layers, layers_and_deltas

#: Constants of so many numbers, such as shapes, are computed when a model is exported; those of weights are not.
FOLDED = 16


def export_onnx(
    model: nn.Module, args: tuple[Any, ...], path: str | os.PathLike[str], *, expand: bool = False, **options: Any
) -> torch.onnx.ONNXProgram:
    """Write a compressed model as ONNX, as a whole or not at all; return torch's account of it.

    With the generators in the graph, a runtime makes each weight from its cores: onnxruntime does it once, when it
    loads the file. Names and lines of source files, which torch writes into ONNX, are left out.

    Args:
        model: with generated layers; it stays as it is. Layers that are frozen are generated in the file.
        args: inputs for `model`, which is traced with them.
        path: replaced, if it is there.
        expand: write dense weights instead: larger, and the same outputs.
        options: of `torch.onnx.export`, such as `dynamic_shapes`, `input_names`, `opset_version`.

    Raises:
        ValueError: if a layer's weight is computed by an engine, which cannot be traced.
        ImportError: if onnxscript is not installed.
        OSError: if the file cannot be written.
    """
    layers = generated_layers(model)
    if engines := [name for name, layer in layers.items() if layer.engine is not None and not expand]:
        engine = layers[engines[0]].engine
        raise ValueError(
            f"layer {engines[0]!r} has its weight from the engine {engine!r}, which cannot be traced: build it without,"
            " or export with expand=True"
        )
    try:
        import onnxscript  # noqa: PLC0415  (an optional dependency)
    except ImportError as error:
        raise ImportError('onnxscript is not installed; try: pip install "adntn[onnx]"') from error

    exported = expand_model(copy.deepcopy(model)) if expand else model
    with _generated(exported), torch.no_grad():
        made = torch.onnx.export(exported, args, dynamo=True, optimize=False, **{"verbose": False, **options})
    program: Any = made
    onnxscript.optimizer.optimize(program.model, input_size_limit=FOLDED, output_size_limit=FOLDED)
    _forget_sources(program.model)
    with whole_file(path) as partial:
        program.save(partial, external_data=False)
    return program  # type: ignore[no-any-return]


@contextmanager
def _generated(model: nn.Module) -> Iterator[None]:
    """A context in which no layer keeps its weight."""
    kept = [(layer, layer.frozen_weight) for layer in layers_and_deltas(model).values()]
    try:
        for layer, _ in kept:
            layer.unfreeze()
        yield
    finally:
        for layer, weight in kept:
            layer.frozen_weight = weight


def _forget_sources(model: Any) -> None:
    """Take out what torch notes on every node: modules, functions and lines of source files."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
