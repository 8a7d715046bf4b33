"""A transformer that makes a sentence into a vector: all-MiniLM-L6-v2 from a folder, or a tiny one for a trial."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

#: Sentences are cut off here: names and summaries are short.
MOST_TOKENS = 20
FILES = ("config.json", "model.safetensors", "tokenizer.json")
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 500}


class SentenceModel(nn.Module):
    """Mean of the tokens' vectors, of length 1: what sentence-transformers computes for this model.

    Attributes:
        transformer: BERT of transformers.
        tokens: from a sentence to its tokens' numbers.
    """

    def __init__(self, transformer: nn.Module, tokens: Callable[[str], list[int]]) -> None:
        super().__init__()
        self.transformer = transformer
        self.tokens = tokens

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """Return one row for each sentence."""
        numbers = [torch.tensor(self.tokens(sentence)) for sentence in sentences]
        mask = pad_sequence([torch.ones_like(one) for one in numbers], batch_first=True)
        states = self.transformer(input_ids=pad_sequence(numbers, batch_first=True), attention_mask=mask)[0]
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return functional.normalize(mean, dim=1)

    @torch.no_grad()
    def embed(self, sentences: Sequence[str], batch: int = 64) -> Tensor:
        """Return the vectors of many sentences; sorted by length, so that little is padded."""
        order = sorted(range(len(sentences)), key=lambda one: len(sentences[one]))
        parts = [
            self([sentences[one] for one in order[first : first + batch]]) for first in range(0, len(order), batch)
        ]
        rows = torch.cat(parts)
        found = torch.empty_like(rows)
        found[torch.tensor(order)] = rows
        return found


def load(folder: Path) -> SentenceModel:
    """Return the model in a folder.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415  (a trial with the tiny model needs only transformers)
    from transformers import BertModel  # noqa: PLC0415

    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} lacks {name}; docs/adapters.md says where the model comes from")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_TOKENS)
    transformer: Any = BertModel.from_pretrained(folder, add_pooling_layer=False)
    return SentenceModel(transformer.eval().requires_grad_(False), lambda sentence: tokenizer.encode(sentence).ids)


def tiny() -> SentenceModel:
    """Return a random model of a few thousand parameters, whose tokens are numbers of words."""
    from transformers import BertConfig, BertModel  # noqa: PLC0415

    torch.manual_seed(0)
    transformer: Any = BertModel(BertConfig(**TINY), add_pooling_layer=False)

    def tokens(sentence: str) -> list[int]:
        return [1 + zlib.crc32(word.encode()) % (TINY["vocab_size"] - 1) for word in sentence.split()[:MOST_TOKENS]]

    return SentenceModel(transformer.eval().requires_grad_(False), tokens)
