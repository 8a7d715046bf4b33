"""One job of an experiment: a version of its network built from a seed, trained, and measured.

Dense versions that others begin with or learn from leave their weights in the folder of work; nothing else outlives a
job but its result, a plain value that JSON keeps.
"""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.utils import prune

import adntn
from adntn.atomic import whole_file
from adntn.benchmarking.memory import ProcessMeter
from adntn_torch import adapt, compress, expand
from adntn_torch.adapters import merge
from adntn_torch.training import dense_weights, fit_layers, logits_loss
from data import Dataset
from experiment import SIZES, Experiment, Version, place
from networks import NETWORKS, freeze, parameter_count
from training import Objective, Stop, Trained, accuracy, cross_entropy, train
from versions import Replaced, replaceable, smallest

TEMPERATURE = 4.0
"""At which the outputs of a teacher are compared, with the same weight as the labels."""
MEASURED_IMAGES = 10_000
"""How many training images the training accuracy is measured on, the first ones."""


@dataclass(frozen=True)
class Built:
    """A version ready to be trained."""

    network: nn.Module
    layers: tuple[Replaced, ...]
    stored: int
    """Numbers that have to be stored, besides the seed."""


class Summed(nn.Module):
    """Layers that take the same input, and whose outputs are summed: as one layer with the sum of their weights."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum of all outputs."""
        total: Tensor = sum(layer(inputs) for layer in self.layers)
        return total


def run_job(
    experiment: Experiment,
    version: Version,
    seed: int,
    dataset: Dataset,
    work: Path,
    *,
    stop: Stop,
) -> dict[str, Any]:
    """Train a version from a seed and return what was measured.

    Raises:
        InterruptedRunError
        when `stop` was requested; the job goes on from its checkpoint the next time.
    """
    recipe, declaration = experiment.recipe_for(version, seed), experiment.declaration(version)
    dataset = holding_out(dataset, experiment.held_out) if experiment.held_out else dataset
    built = build(experiment, version, seed, dataset, work)
    network = built.network
    checkpoint = checkpoint_of(version, seed, work)
    objective: Objective = cross_entropy
    if version.teacher:
        teacher = trained_network(experiment, version.teacher, seed, dataset, work)
        objective = distilling(teacher, autocast=recipe.autocast)
    meter = memory_meter()
    held = 0 if meter is None else meter.now()
    if meter is not None:
        meter.reset_peak()
    trained = Trained(0.0, (), diverged=False)
    if recipe.epochs:  # else it stays as it begins, and may have nothing that learns
        trained = train(
            network,
            dataset,
            recipe,
            job=f"{experiment.name}, {version.name}, {seed}, {declaration}",
            checkpoint=checkpoint,
            resume=True,
            stop=stop,
            objective=objective,
        )
    peak = None if meter is None else meter.peak() - held
    dense = _measurable(network, version)
    rows = slice(MEASURED_IMAGES)
    result = {
        "experiment": experiment.name,
        "version": version.name,
        "seed": seed,
        "declaration": declaration,
        "layers": [{**asdict(layer), "ratio": layer.ratio} for layer in built.layers],
        "dense_parameters": stored_count(dense_network(experiment, dataset)),
        "stored": built.stored,
        "train_accuracy": accuracy(
            dense, dataset.train_images[rows], dataset.train_labels[rows], autocast=recipe.autocast and not version.int8
        ),
        "test_accuracy": accuracy(
            dense, dataset.test_images, dataset.test_labels, autocast=recipe.autocast and not version.int8
        ),
        "losses": trained.losses,
        "diverged": trained.diverged,
        "seconds": trained.seconds,
        "seconds_per_epoch": trained.seconds / recipe.epochs if recipe.epochs else 0.0,
        "peak_memory": peak,
        "images": len(dataset.train_labels),
        "test_images": len(dataset.test_labels),
        "threads": torch.get_num_threads(),
        "dataset": str(dataset),
        "versions": {"adntn": adntn.__version__, "Python": platform.python_version(), "torch": torch.__version__},
    }
    if any(version.name in other.needs for other in experiment.versions):
        save_network(network, work / f"{place(version.name, seed)}.safetensors", declaration)
    return result


def holding_out(dataset: Dataset, count: int) -> Dataset:
    """Return a data set whose test images are so many of the training images, which are trained on no more.

    >>> from data import load_data
    >>> str(holding_out(load_data(images=200), 50)).split(": ")[1]
    '150 training and 50 test images of 1 x 8 x 8, 10 classes'

    Raises:
        ValueError: if there are too few training images for so many of each class.
    """
    labels = dataset.train_labels.numpy()
    kept, held = train_test_split(range(len(labels)), test_size=count, stratify=labels, random_state=0)
    return replace(
        dataset,
        train_images=dataset.train_images[kept],
        train_labels=dataset.train_labels[kept],
        test_images=dataset.train_images[held],
        test_labels=dataset.train_labels[held],
        note="; ".join(filter(None, (dataset.note, "tested on training images that were held out"))),
    )


def build(experiment: Experiment, version: Version, seed: int, dataset: Dataset, work: Path) -> Built:
    """Return a version of an experiment's network, with its start drawn from the seed.

    Raises:
        ValueError: if a pattern matches no layer, a layer cannot be generated as asked, or the whole network is not as
            large as the version that it should be as large as.
        FileNotFoundError
        when the trained weights that it begins with are not in the folder of work.
    """
    if version.as_large_as:
        return _narrower(experiment, version, seed, dataset, work)
    network = dense_network(experiment, dataset, seed, version.network)
    if version.after:
        _load(network, experiment, version.after, seed, work)
    layers: tuple[Replaced, ...] = ()
    stored = stored_count(network)
    if version.generate:
        layers = _generate(network, version, seed)
        stored = stored_count(network)
        if version.fit:
            before = trained_network(experiment, version.after, seed, dataset, work)
            fit_layers(network, dense_weights(network, before), lbfgs=version.fit)
    if version.frozen:
        chosen, others = version.frozen, layers
        if isinstance(chosen, bool):  # the generators: their weights never change, and are made here, once
            expand(network)
            chosen, others = tuple(version.generate), ()
        names = replaceable(network, chosen)
        layers = (*others, *(_stored_as(network, name, "its start, from the seed", 0.0) for name in names))
        freeze(network, names)
        stored = stored_count(network)
    if version.prune:
        layers = _prune(network, replaceable(network, version.prune), version.keep)
        stored -= sum(layer.before - layer.after for layer in layers)
    if version.int8:
        # Four weights of 8 bits take the place of one of 32.
        names = tuple(name for name, layer in network.named_modules() if isinstance(layer, nn.Linear))
        layers = tuple(_stored_as(network, name, "8 bits", 0.25) for name in names)
        stored -= sum(layer.before - layer.after for layer in layers)
    return Built(network, layers, stored)


def stored_count(network: nn.Module) -> int:
    """Return how many numbers have to be stored: what learns, and the running statistics of normalisations."""
    statistics = (
        buffer.numel()
        for layer in network.modules()
        if isinstance(layer, nn.BatchNorm2d)
        for buffer in layer.buffers(recurse=False)
        if buffer.is_floating_point()
    )
    return parameter_count(network) + sum(statistics)


def dense_network(
    experiment: Experiment, dataset: Dataset, seed: int | None = None, others: Mapping[str, Any] = MappingProxyType({})
) -> nn.Module:
    """Return the dense network, or one of other options; without a seed it has shapes and no data."""
    options = {**experiment.network, **others}
    name = options.pop("name")
    options |= {"channels": dataset.channels, "size": dataset.size, "classes": len(dataset.classes)}
    if seed is not None:
        torch.manual_seed(seed)
        return NETWORKS[name](**options)
    with torch.device("meta"):
        return NETWORKS[name](**options)


def trained_network(experiment: Experiment, name: str, seed: int, dataset: Dataset, work: Path) -> nn.Module:
    """Return the dense network with the weights that a version of it was trained to."""
    network = dense_network(experiment, dataset, seed)
    _load(network, experiment, name, seed, work)
    return network.eval()


def save_network(network: nn.Module, path: Path, declaration: Mapping[str, Any]) -> None:
    """Write a network's state, and what it was trained by, whole or not at all."""
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    with whole_file(path) as temporary:
        save_file(state, temporary, {"declaration": json.dumps(declaration)})


def checkpoint_of(version: Version, seed: int, work: Path) -> Path:
    """Return the file from which an interrupted job goes on."""
    return work / f"{place(version.name, seed)}.checkpoint.pt"


def distilling(teacher: nn.Module, *, autocast: bool) -> Objective:
    """Return the objective of a student: the labels, and as much a teacher's softened outputs."""

    def objective(images: Tensor, labels: Tensor, outputs: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            taught = teacher(images)
        soft = logits_loss(outputs.float(), taught.float(), temperature=TEMPERATURE)
        return 0.5 * nn.functional.cross_entropy(outputs, labels) + 0.5 * soft

    return objective


def memory_meter() -> ProcessMeter | None:
    """Return what measures the memory of this process; None where it cannot be measured."""
    try:
        return ProcessMeter()
    except OSError:
        return None


def _load(network: nn.Module, experiment: Experiment, name: str, seed: int, work: Path) -> None:
    path = work / f"{place(name, seed)}.safetensors"
    again = f"run {experiment.name}'s version {name!r} again (--again)"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: {again}")
    with safe_open(path, "pt") as file:
        trained_by = json.loads((file.metadata() or {}).get("declaration", "null"))
    if trained_by != experiment.declaration(experiment.version(name)):
        raise ValueError(f"{path} was trained by another declaration: {again}")
    network.load_state_dict(load_file(path))


def _generate(network: nn.Module, version: Version, seed: int) -> tuple[Replaced, ...]:
    """Put generated layers into a network, several summed ones or beside a random start where the version says so."""
    if version.seeded:
        weights = {id(network.get_submodule(n).weight) for n in replaceable(network, tuple(version.generate))}
        adapted = adapt(network, version.rules, seed=seed).rows
        for parameter in network.parameters():  # all but the weights at their start
            parameter.requires_grad_(id(parameter) not in weights)
        return tuple(Replaced(row.name, row.shape, f"{row.topology}, seeded", row.before, row.after) for row in adapted)
    if version.copies == 1:
        rows = compress(network, version.rules, seed=seed, std=version.std).rows
        return tuple(Replaced(row.name, tuple(row.shape), row.topology, row.before, row.after) for row in rows)
    layers: dict[str, list[nn.Module]] = {}
    for copy in range(version.copies):
        one = deepcopy(network)
        rows = compress(one, version.rules, seed=seed + 1000 * copy, std=version.std).rows
        for row in rows:
            layer = one.get_submodule(row.name)
            scale = layer.get_parameter("cores.scale")
            with torch.no_grad():  # so that the sum starts with the deviation of one
                scale.mul_(version.copies**-0.5)
            if copy:
                layer.register_parameter("bias", None)
            layers.setdefault(row.name, []).append(layer)
    for name, parts in layers.items():
        network.set_submodule(name, Summed(parts))
    return tuple(
        Replaced(
            row.name, tuple(row.shape), f"{version.copies} x {row.topology}", row.before, version.copies * row.after
        )
        for row in rows
    )


def _stored_as(network: nn.Module, name: str, how: str, part: float) -> Replaced:
    weight = _weight(network, name)
    return Replaced(name, tuple(weight.shape), how, weight.numel(), round(part * weight.numel()))


def _prune(network: nn.Module, names: tuple[str, ...], keep: float) -> tuple[Replaced, ...]:
    """Keep the largest weights of some layers, by torch's own tool; the others stay zero while it is trained."""
    layers = tuple(_stored_as(network, name, f"pruned, {keep:.2%} kept", keep) for name in names)
    for name in names:
        prune.l1_unstructured(network.get_submodule(name), "weight", amount=1 - keep)  # type: ignore[no-untyped-call]
    return layers


def _measurable(network: nn.Module, version: Version) -> nn.Module:
    """Return the trained network with dense layers, so that weights are generated once and not for every batch."""
    for layer in network.modules():
        if prune.is_pruned(layer) and hasattr(layer, "weight_mask"):
            prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    copied = deepcopy(network).eval()
    expand(copied)
    if version.seeded:
        merge(copied)
    if version.int8:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's tool says that torchao will replace it
            warnings.simplefilter("ignore", UserWarning)
            quantise: Callable[..., nn.Module] = torch.ao.quantization.quantize_dynamic
            return quantise(copied, {nn.Linear}, dtype=torch.qint8)
    return copied


def _narrower(experiment: Experiment, version: Version, seed: int, dataset: Dataset, work: Path) -> Built:
    """Return the dense network with some sizes so small that it has just as many numbers as another version.

    Of layers that it freezes at their start none are stored.
    """
    target = build(experiment, experiment.version(version.as_large_as), seed, dataset, work)
    patterns = () if isinstance(version.frozen, bool) else version.frozen

    def frozen(network: nn.Module) -> tuple[str, ...]:
        return replaceable(network, patterns)

    def stored(network: nn.Module) -> int:
        return stored_count(network) - sum(_weight(network, name).numel() for name in frozen(network))

    def narrower(step: int) -> dict[str, Any]:
        factor = step / SIZES["hidden"]
        given = {name: experiment.network.get(name, SIZES[name]) * factor for name in version.narrow}
        sizes = {name: value if name == "width" else max(1, round(value)) for name, value in given.items()}
        return {**version.network, **sizes}

    step = smallest(lambda step: stored(dense_network(experiment, dataset, None, narrower(step))), target.stored)
    network = dense_network(experiment, dataset, seed, narrower(step))
    whole, count, names = dense_network(experiment, dataset), stored(network), frozen(network)
    if count < target.stored:
        raise ValueError(
            f"version {version.name!r} is smaller than {version.as_large_as!r} even if nothing is narrower"
        )
    layers = tuple(
        Replaced(
            one.name,
            tuple(_weight(whole, one.name).shape),
            f"dense {tuple(_weight(network, one.name).shape)}{', frozen' if one.name in names else ''}",
            _weight(whole, one.name).numel(),
            0 if one.name in names else _weight(network, one.name).numel(),
        )
        for one in target.layers
        if one.name in dict(network.named_modules())
    )
    freeze(network, names)
    return Built(network, layers, count)


def _weight(network: nn.Module, name: str) -> Tensor:
    return network.get_submodule(name).get_parameter("weight")
