"""What is compared on a sentence model: adapters, and replacements of its largest layers, each with as many numbers.

A contender changes a model in place, freezes all of it but its own numbers, and says what it did. For every layer, the
size of ours and of tensorly-torch's is chosen to be nearest to that of a low rank: LoRA's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import adntn
from adntn import Generator
from adntn_torch import GeneratedLayer, adapt, compress, generated_layers
from sentence_model import SentenceModel

#: The layers that are replaced: the table of words and the feed-forward layers, two thirds of MiniLM.
REPLACED = re.compile(r"embeddings\.word_embeddings|encoder\.layer\.\d+\.(intermediate|output)\.dense")
#: Rank of LoRA and so the size of all adapters; weights for each number in replaced layers.
RANK, RATIO = 1, 10
LARGEST_BOND = 1024

Options = Callable[[tuple[int, ...]], Generator]


@dataclass(frozen=True)
class Contender:
    """One way to adapt or to compress.

    Attributes:
        name: in the table.
        rate: of Adam, the best of RATES for validation sentences.
        change: changes a model in place, and returns what it did in words.
        needs: the package that it takes.
    """

    name: str
    rate: float
    change: Callable[[SentenceModel], str]
    needs: str = "adntn_torch"

    @property
    def is_possible(self) -> bool:
        """Whether its package is installed."""
        return find_spec(self.needs) is not None


RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def numbers(rank: int, shape: Iterable[int]) -> int:
    """Return how many numbers a low rank takes for a matrix."""
    return rank * sum(shape)


def nearest(build: Callable[[int], Options], shape: tuple[int, ...], wanted: int) -> Options:
    """Return the options whose bond makes as many numbers as are wanted, as nearly as can be."""
    best: tuple[float, Options] | None = None
    for bond in range(1, LARGEST_BOND):
        options = build(bond)
        found = options(shape).parameters - 1  # the scale is fixed, or one number
        if best is None or abs(found - wanted) < best[0]:
            best = abs(found - wanted), options
        if found > 2 * wanted:
            break
    assert best is not None
    return best[1]


# adapters


def lora(model: SentenceModel) -> str:
    """Adapt by LoRA of PEFT."""
    import peft  # noqa: PLC0415

    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    model.transformer = peft.get_peft_model(model.transformer, config).eval()
    return f"rank {RANK}"


def generated_adapter(build: Callable[[int], Options], fraction: int = 1) -> Callable[[SentenceModel], str]:
    """Return the change that adapts by ours, with as many numbers as LoRA in each layer, or a fraction of these."""

    def change(model: SentenceModel) -> str:
        def rule(name: str, module: nn.Module) -> Options | None:
            if not isinstance(module, nn.Linear):
                return None
            shape = tuple(module.weight.shape)
            return nearest(build, shape, numbers(RANK, shape) // fraction)

        return _in_words(row.topology for row in adapt(model.transformer, rule).rows)

    return change


class WithFactors(nn.Module):
    """A linear layer and a matrix of tensorly-torch that is added to its weight."""

    def __init__(self, base: nn.Module, factors: nn.Module) -> None:
        super().__init__()
        self.base, self.factors = base, factors

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both."""
        y: Tensor = self.base(x) + self.factors(x)
        return y


def tensorly_adapter(model: SentenceModel) -> str:
    """Adapt by block tensor trains of tensorly-torch, zero at the start in the same way as ours."""
    import tltorch  # noqa: PLC0415

    ranks = []
    for parent, name, layer in _linear_layers(model.transformer, lambda name: True):
        rows, columns = _factors(layer.out_features), _factors(layer.in_features)
        rank = _train_ranks(rows, columns, numbers(RANK, (layer.out_features, layer.in_features)))
        added: Any = tltorch.FactorizedLinear(columns, rows, bias=False, factorization="blocktt", rank=rank)
        added.weight.normal_(0, layer.in_features**-0.5)
        with torch.no_grad():
            list(added.parameters())[-1].zero_()
        setattr(parent, name, WithFactors(layer, added))
        ranks.append(f"rank {max(rank)}")
    return _in_words(ranks)


# compression


def generated_layers_of(build: Callable[[int], Options], *, fitted: bool) -> Callable[[SentenceModel], str]:
    """Return the change that replaces layers by ours, fitted to the old weights or at a random start."""

    def change(model: SentenceModel) -> str:
        def rule(name: str, module: nn.Module) -> Options | None:
            if not REPLACED.fullmatch(name):
                return None
            shape = tuple(module.get_parameter("weight").shape)
            return nearest(build, shape, shape[0] * shape[1] // RATIO)

        old = {name: module.weight for name, module in model.transformer.named_modules() if REPLACED.fullmatch(name)}
        rows = compress(model.transformer, rule).rows
        for name, layer in generated_layers(model.transformer).items():
            if fitted:
                layer.load_cores(adntn.fit(layer.generator, old[name], iterations=0).cores)
            layer.requires_grad_(False)
            _learn(layer)
        return _in_words(row.topology for row in rows)

    return change


def _learn(layer: GeneratedLayer) -> None:
    layer.cores.requires_grad_(True)


class FactorisedEmbedding(nn.Module):
    """An embedding whose table is a matrix of tensorly-torch, cut off at the last word."""

    def __init__(self, table: Any, words: int, padding: int | None) -> None:
        super().__init__()
        self.table, self.words, self.padding = table, words, padding

    def forward(self, words: Tensor) -> Tensor:
        """Return the rows of the words."""
        return functional.embedding(words, self.table.to_matrix()[: self.words], self.padding)


class FactorisedLinear(nn.Module):
    """A linear layer whose weight is a matrix of tensorly-torch."""

    def __init__(self, weight: Any, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = weight, nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product."""
        return functional.linear(x, self.weight.to_matrix(), self.bias)


def tensorly_layers(model: SentenceModel) -> str:
    """Replace layers by block tensor trains of tensorly-torch, decomposed from the old weights by its own SVDs."""
    from tltorch.factorized_tensors.tensorized_matrices import TensorizedTensor  # noqa: PLC0415

    ranks = []
    for parent, name, layer in _chosen(model.transformer):
        weight = layer.weight.detach()
        padded = weight if isinstance(layer, nn.Linear) else _padded(weight)
        rows, columns = _factors(padded.shape[0]), _factors(padded.shape[1])
        rank = _train_ranks(rows, columns, weight.numel() // RATIO)
        made = TensorizedTensor.from_matrix(padded, rows, columns, rank, factorization="blocktt")
        made.requires_grad_(True)
        replaced = FactorisedLinear(made, layer.bias) if isinstance(layer, nn.Linear) else None
        setattr(parent, name, replaced or FactorisedEmbedding(made, len(weight), layer.padding_idx))
        ranks.append(f"rank {max(rank)}")
    return _in_words(ranks)


def _padded(table: Tensor) -> Tensor:
    """Return a table with rows of zeros until their number has small factors."""
    return functional.pad(table, (0, 0, 0, _smooth(len(table)) - len(table)))


def _smooth(size: int) -> int:
    """Return the least number that is not below a size and has four factors of at most 16.

    >>> _smooth(384), _smooth(30522)
    (384, 30576)
    """
    while max(_factors(size)) > 16:
        size += 1
    return size


def _linear_layers(model: nn.Module, wanted: Callable[[str], bool]) -> list[tuple[nn.Module, str, Any]]:
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and wanted(name)]
    return [_place(model, name) for name in found]


def _chosen(model: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    return [_place(model, name) for name, _ in list(model.named_modules()) if REPLACED.fullmatch(name)]


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str, Any]:
    parent, _, child = name.rpartition(".")
    return model.get_submodule(parent), child, model.get_submodule(name)


def _factors(size: int) -> tuple[int, ...]:
    """Return a size as four factors of about the same size.

    >>> _factors(384)
    (6, 4, 4, 4)
    """
    factors = [1] * 4
    for prime in sorted(adntn.shapes.prime_factors(size), reverse=True):
        factors[factors.index(min(factors))] *= prime
    return tuple(factors)


def _train_ranks(rows: tuple[int, ...], columns: tuple[int, ...], wanted: int) -> tuple[int, ...]:
    """Return the ranks of a block tensor train with as many numbers as are wanted, as nearly as can be.

    >>> _train_ranks((4, 4, 4, 6), (4, 4, 4, 6), 768)
    (1, 4, 4, 4, 1)
    """
    inner = [row * column for row, column in zip(rows, columns, strict=True)]

    def ranks(largest: int) -> tuple[int, ...]:
        bonds = (min(math.prod(inner[:place]), math.prod(inner[place:])) for place in range(len(inner) + 1))
        return tuple(min(bond, largest) for bond in bonds)

    def size(chosen: tuple[int, ...]) -> int:
        return sum(left * legs * right for left, legs, right in zip(chosen, inner, chosen[1:], strict=False))

    return min(map(ranks, range(1, LARGEST_BOND)), key=lambda chosen: abs(size(chosen) - wanted))


def _in_words(descriptions: Iterable[str]) -> str:
    """Return what differs, each once, in the order in which it came."""
    return ", ".join(dict.fromkeys(descriptions))


def tree(bond: int) -> Options:
    """Return a tree with tanh between its levels."""
    return adntn.TTN.options(bond=bond, leg=4)


ADAPTERS = (
    Contender("LoRA (PEFT)", 3e-3, lora, "peft"),
    Contender("ours, TTN with tanh", 1e-2, generated_adapter(tree)),
    Contender("ours, TTN with tanh, a quarter", 3e-2, generated_adapter(tree, fraction=4)),
    Contender("ours, tensor train", 3e-3, generated_adapter(lambda bond: adntn.TensorTrain.options(bond=bond))),
    Contender("tensorly-torch, block tensor train", 1e-2, tensorly_adapter, "tltorch"),
)


@dataclass(frozen=True)
class TrainOfLargeLegs:
    """A tensor train with four legs for each dimension, as tensorly-torch has it, rows and columns in turn."""

    bond: int

    def __call__(self, shape: tuple[int, ...]) -> Generator:
        """Return the generator of a matrix."""
        rows, columns = shape
        return adntn.TensorTrain(shape, bond=self.bond, factors=(_factors(_smooth(rows)), _factors(columns)))

    def __str__(self) -> str:
        return f"TensorTrain(bond={self.bond})"


COMPRESSED = (
    Contender("ours, low rank", 1e-3, generated_layers_of(lambda bond: adntn.LowRank.options(rank=bond), fitted=True)),
    Contender("ours, tensor train", 1e-3, generated_layers_of(TrainOfLargeLegs, fitted=True)),
    Contender(
        "ours, TTN with tanh, random start",
        1e-3,
        generated_layers_of(lambda bond: adntn.TTN.options(bond=bond, leg=8), fitted=False),
    ),
    Contender("tensorly-torch, block tensor train", 1e-3, tensorly_layers, "tltorch"),
)
