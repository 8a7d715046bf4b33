"""Attention with generated projections: torch's own computes, from weights that are made for each call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from adntn import LowRank
from adntn.backends import Differentiation
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions, check_no_topology
from adntn_torch.batched import BatchedLinear
from adntn_torch.generated import GeneratedLayer, deviation
from adntn_torch.layers import Device, Linear

#: The layers whose weights are those of q, k and v: the first, or the others.
PROJECTIONS = ("in_proj", "q_proj", "k_proj", "v_proj")
#: Options for all projections, or for each by name.
Topologies = TopologyOptions | Mapping[str, TopologyOptions]


class _Filled:
    """What torch's forward reads of its layer, each weight made once: not of a module, which has parameters only."""

    merge_masks = nn.MultiheadAttention.merge_masks


class MultiheadAttention(nn.Module):
    """`torch.nn.MultiheadAttention` with generated projections.

    >>> import adntn
    >>> attention = MultiheadAttention(64, 4, batch_first=True, topology=adntn.TTN.options(bond=2), seed=0)
    >>> x = torch.zeros(2, 10, 64)
    >>> attention(x, x, x)[0].shape, tuple(attention.in_proj_weight.shape)
    (torch.Size([2, 10, 64]), (192, 64))

    Inputs, masks, outputs and errors are torch's: its own forward runs, with weights that are made once for each call.
    The output projection `out_proj` is an `adntn_torch.Linear`; where `compress` puts this layer, it stays what it was.

    Args:
        embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype: as in
            `torch.nn.MultiheadAttention`.
        topology: how each projection's weight is generated: options without `batch`; or a mapping that gives options
            to `out_proj`, and to `in_proj` or to `q_proj`, `k_proj` and `v_proj`.
        joined: one generator with a batch axis makes q, k and v, in `in_proj`; else three do, in `q_proj`, `k_proj` and
            `v_proj`. None joins them where keys and values have the size `embed_dim`, or where a mapping says so.
        differentiation, engine: as in `adntn_torch.Linear`.
        seed: of the cores; None draws one from torch's generator.
        std: the deviation with which q, k and v start; None takes those of torch.

    Raises:
        TypeError, ValueError, AssertionError: from torch or the topology, for what they do not accept; or if
            projections of different shapes are to be joined, or a mapping has other names.
    """

    dense_kind: ClassVar[type[nn.Module]] = nn.MultiheadAttention
    #: Arguments that the dense layer has as attributes of the same names.
    dense_arguments: ClassVar[tuple[str, ...]] = (
        "embed_dim",
        "num_heads",
        "dropout",
        "add_zero_attn",
        "kdim",
        "vdim",
        "batch_first",
    )

    kdim: int
    vdim: int
    in_proj: BatchedLinear | None
    q_proj: Linear
    k_proj: Linear
    v_proj: Linear
    in_proj_bias: Tensor | None
    bias_k: Tensor | None
    bias_v: Tensor | None

    def __init__(  # noqa: PLR0917 (torch's signature)
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        topology: Topologies = DEFAULT_TOPOLOGY,
        joined: bool | None = None,
        differentiation: Differentiation | None = None,
        engine: str | None = None,
        seed: int | None = None,
        std: float | None = None,
    ) -> None:
        check_no_topology(dropout=dropout, bias=bias)
        dense: Any = nn.MultiheadAttention(
            embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, "meta", dtype
        )
        super().__init__()
        self.topology = topology
        for name in (*self.dense_arguments, "head_dim", "_qkv_same_embed_dim"):
            setattr(self, name, getattr(dense, name))
        if joined is None:
            joined = "in_proj" in topology if isinstance(topology, Mapping) else dense._qkv_same_embed_dim
        if joined and not dense._qkv_same_embed_dim:
            raise ValueError(f"joined needs kdim and vdim to be embed_dim, {embed_dim}; got {kdim!r} and {vdim!r}")
        self.joined = joined
        topologies = _by_projection(topology, PROJECTIONS[:1] if joined else PROJECTIONS[1:])
        options: dict[str, Any] = {
            "device": device,
            "dtype": dtype,
            "differentiation": differentiation,
            "engine": engine,
        }
        drawn = iter([None] * 4 if seed is None else [4 * seed + number for number in range(4)])
        if self.joined:
            usual = 1.0 / math.sqrt(2 * embed_dim)
            self.in_proj = BatchedLinear(
                3,
                embed_dim,
                embed_dim,
                bias=False,
                topology=topologies["in_proj"],
                seed=next(drawn),
                std=usual if std is None else std,
                **options,
            )
        else:
            self.in_proj = None
            for name, inputs in (("q_proj", embed_dim), ("k_proj", self.kdim), ("v_proj", self.vdim)):
                joint = 4 * embed_dim if dense._qkv_same_embed_dim else embed_dim + inputs
                usual = math.sqrt(2.0 / joint)
                own: dict[str, Any] = {"topology": topologies[name], "std": usual if std is None else std}
                setattr(self, name, Linear(inputs, embed_dim, False, seed=next(drawn), **own, **options))
        output = topologies["out_proj"]
        self.out_proj: Any = Linear(embed_dim, embed_dim, bias, topology=output, seed=next(drawn), **options)
        for name in ("in_proj_bias", "bias_k", "bias_v"):
            like = getattr(dense, name)
            empty = None if like is None else nn.Parameter(torch.empty(like.shape, device=device, dtype=like.dtype))
            self.register_parameter(name, empty)
        self._reset_biases()

    @torch.no_grad()
    def _reset_biases(self) -> None:
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                nn.init.xavier_normal_(bias)

    @property
    def projections(self) -> tuple[GeneratedLayer, ...]:
        """The layers whose weights are those of q, k and v: one or three."""
        return (self.in_proj,) if self.in_proj is not None else (self.q_proj, self.k_proj, self.v_proj)

    @property
    def in_proj_weight(self) -> Tensor | None:
        """The weights of q, k and v below each other, made anew on every access; None if their shapes differ."""
        if self.in_proj is not None:
            return self.in_proj.weight.flatten(0, 1)
        return torch.cat([layer.weight for layer in self.projections]) if self._qkv_same_embed_dim else None

    def forward(  # noqa: PLR0917 (torch's signature)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `torch.nn.MultiheadAttention` returns: the output, and the attention weights or None."""
        names = (*self.dense_arguments, "head_dim", "training", "in_proj_bias", "bias_k", "bias_v")
        filled: Any = _Filled()
        for name in names:
            setattr(filled, name, getattr(self, name))
        filled._qkv_same_embed_dim = self.joined
        filled.in_proj_weight = self.in_proj_weight if self.joined else None
        weights = [None] * 3 if self.joined else [layer.weight for layer in self.projections]
        filled.q_proj_weight, filled.k_proj_weight, filled.v_proj_weight = weights
        filled.out_proj = _Filled()
        filled.out_proj.weight, filled.out_proj.bias = self.out_proj.weight, self.out_proj.bias
        forward: Any = nn.MultiheadAttention.forward
        made: tuple[Tensor, Tensor | None] = forward(
            filled,
            query,
            key,
            value,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return made

    # what torch.nn.TransformerEncoderLayer asks of its attention where it takes its fast path
    merge_masks = nn.MultiheadAttention.merge_masks

    def freeze(self, dtype: torch.dtype | None = None) -> Self:
        """Keep all generated weights, made once, for inference; return the layer. See `adntn_torch.Linear.freeze`."""
        for layer in self._generated_layers():
            layer.freeze(dtype)
        return self

    def unfreeze(self) -> Self:
        """Let the kept weights go; return the layer."""
        for layer in self._generated_layers():
            layer.unfreeze()
        return self

    def _generated_layers(self) -> list[GeneratedLayer]:
        return [layer for layer in self.children() if isinstance(layer, GeneratedLayer)]

    @classmethod
    def from_dense(
        cls,
        dense: nn.MultiheadAttention,
        topology: Topologies = DEFAULT_TOPOLOGY,
        *,
        joined: bool | None = None,
        differentiation: Differentiation | None = None,
        engine: str | None = None,
        seed: int | None = None,
        std: float | None = None,
    ) -> Self:
        """Return a layer to stand in place of a dense one: its biases and its output projection, dtype, device, mode.

        The weights are not fitted; they start with the deviation of the dense ones, or with `std`. A mapping of
        topologies need not name `out_proj`.

        Raises:
            ValueError: if the dense weights have no finite, positive deviation and `std` is not given.
        """
        made = topology
        if isinstance(topology, Mapping):
            made = {**topology, "out_proj": LowRank.options(rank=1)}  # let go below, for the dense one's
        weights = attention_weights(dense)
        arguments: dict[str, Any] = {name: getattr(dense, name) for name in cls.dense_arguments}
        layer = cls(
            **arguments,
            bias=dense.in_proj_bias is not None,
            add_bias_kv=dense.bias_k is not None,
            device=weights[0].device,
            dtype=weights[0].dtype,
            topology=made,
            joined=joined,
            differentiation=differentiation,
            engine=engine,
            seed=seed,
            std=deviation(torch.cat([weight.flatten() for weight in weights])) if std is None else std,
        )
        layer.in_proj_bias, layer.bias_k, layer.bias_v = dense.in_proj_bias, dense.bias_k, dense.bias_v
        layer.out_proj, layer.topology = dense.out_proj, topology
        return layer.train(dense.training)

    @torch.no_grad()
    def to_dense(self) -> nn.MultiheadAttention:
        """Return torch's attention with these weights; biases and `out_proj` are the same parameters and module."""
        arguments: dict[str, Any] = {name: getattr(self, name) for name in self.dense_arguments}
        dense = nn.MultiheadAttention(**arguments, bias=self.in_proj_bias is not None, device="meta")
        if self._qkv_same_embed_dim:
            weight = self.in_proj_weight
            assert weight is not None
            dense.register_parameter("in_proj_weight", nn.Parameter(weight.clone()))
        else:
            for name, layer in zip("qkv", self.projections, strict=True):
                dense.register_parameter(f"{name}_proj_weight", nn.Parameter(layer.weight.clone()))
        for name in ("in_proj_bias", "bias_k", "bias_v"):
            setattr(dense, name, getattr(self, name))
        dense.out_proj = self.out_proj
        return dense.train(self.training)

    def extra_repr(self) -> str:
        """Return what stands between the parentheses when the layer is printed."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, topology={self.topology}"


def _by_projection(topology: Topologies, names: tuple[str, ...]) -> Mapping[str, TopologyOptions]:
    """Return the options of each projection, and of the output."""
    names = (*names, "out_proj")
    if not isinstance(topology, Mapping):
        return dict.fromkeys(names, topology)
    if set(topology) != set(names):
        raise ValueError(f"topology must have options for {', '.join(names)}, got {', '.join(topology) or 'none'}")
    return topology


def attention_weights(dense: nn.MultiheadAttention) -> list[Tensor]:
    """Return the weights of q, k and v: one, or three."""
    if dense.in_proj_weight is not None:
        return [dense.in_proj_weight]
    return [dense.q_proj_weight, dense.k_proj_weight, dense.v_proj_weight]
