"""The base of all layers with a generated weight: it owns the generator, the cores and the bias.

What a layer does with its weight is in `layers`; how the weight is differentiated is in `differentiate`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NoReturn, Self

import torch
from torch import Tensor, nn

from adntn import Generator
from adntn.backends import Differentiation, checked_differentiation
from adntn.generator import TILED
from adntn.machine import machine_of
from adntn.program.contract import check_contracts
from adntn.program.schedule import Choice, checked_schedule, choose, rounded
from adntn.program.task import ScheduleName, Task
from adntn.tiling import Plan, Tiling, tiling
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions, generator_of
from adntn_torch.differentiate import generate, prepare
from adntn_torch.engine import engine as engine_of
from adntn_torch.schedules import is_traced, recomputed
from adntn_torch.spares import SPARES
from adntn_torch.spread import Spread

#: The child in which an adapted layer holds its deltas, by the adapter's name; in file and state dict names it says
#: "ours".
DELTAS = "adntn_delta"
#: A limit of memory that lets the fastest schedule be taken.
UNLIMITED = 2**62


class GeneratedLayer(nn.Module):
    """A layer of `torch.nn` whose weight is generated from cores; use `Linear`, `Conv2d`, `Embedding` ...

    The weight is computed anew on every access and is no parameter: what is written into it is lost.

    Attributes:
        generator: makes the weight, of shape `generator.shape`.
        cores: the parameters to learn, by name; in a state dict they are `cores.top`, `cores.level1/isometry0` ...
        bias: as in `torch.nn`, a parameter or None.
        topology: the options that the generator was built from.
        differentiation: "adjoint", or "native" for torch's own.
        engine: the array library that computes the weight and its adjoint; None for torch itself.
        schedule: how the weight meets x: "auto", "materialise", "recompute", "stream" or "contract".
        memory_limit: bytes that the schedule may hold beyond cores, x, y and their gradients; None for what a dense
            layer takes.
        frozen_weight: the weight that `freeze` keeps, or None.
        std: the standard deviation with which the weight starts.
        spread: how the layer is spread over processes; None for one that knows of no others.
    """

    #: The dense layer that this one stands for, and the arguments that both are built with (also their attributes).
    dense_kind: ClassVar[type[nn.Module]]
    dense_arguments: ClassVar[tuple[str, ...]]
    #: Whether the dense layer may have a bias.
    has_bias: ClassVar[bool] = True
    #: What the layer is called in an error where it does not stream.
    not_streamed: ClassVar[str] = "a convolution with groups"

    cores: nn.ParameterDict
    bias: nn.Parameter | None
    frozen_weight: Tensor | None

    def __init__(
        self,
        dense: nn.Module,
        *,
        device: torch.device | str | int | None,
        topology: TopologyOptions,
        differentiation: Differentiation | None,
        engine: str | None,
        schedule: ScheduleName,
        memory_limit: int | None,
        seed: int | None,
        std: float | None,
    ) -> None:
        """Build the layer that stands for `dense`, a layer without data (on the device "meta")."""
        super().__init__()
        weight, bias = parameters_of(dense)
        self.engine = None if engine == "torch" else engine
        self.differentiation = checked_differentiation(differentiation or "adjoint", self.engine)
        self.schedule, self.memory_limit = self._named_schedule(schedule, memory_limit), memory_limit
        self.topology = topology
        self.spread: Spread | None = None
        self.generator = self._generator(topology, tuple(weight.shape))
        self._engine = None if self.engine is None else engine_of(self.generator, self.engine)
        self.std = self._usual_deviation() if std is None else float(std)
        for name in self.dense_arguments:
            setattr(self, name, getattr(dense, name))
        self._check_schedule()
        prepare(self.generator)
        self.cores = nn.ParameterDict()
        for name, shape in self.generator.core_shapes.items():
            if hasattr(nn.ParameterDict, name):
                raise ValueError(f"core name {name!r} is taken by torch.nn.ParameterDict; give it another")
            self.cores[name] = nn.Parameter(torch.empty(shape, device=device, dtype=weight.dtype))
        new_bias = None if bias is None else nn.Parameter(torch.empty(bias.shape, device=device, dtype=bias.dtype))
        self.register_parameter("bias", new_bias)
        self.register_buffer("frozen_weight", None, persistent=False)
        self.reset_parameters(seed)

    def _generator(self, topology: TopologyOptions, shape: tuple[int, ...]) -> Generator:
        return generator_of(topology, shape)

    def _usual_deviation(self) -> float:
        """Return the standard deviation with which torch starts a weight of this shape."""
        return 1.0 / math.sqrt(3 * self.generator.fan_in)

    @staticmethod
    def _named_schedule(schedule: ScheduleName, memory_limit: int | None) -> ScheduleName:
        return checked_schedule(schedule, memory_limit)

    @property
    def weight(self) -> Tensor:
        """The generated weight: new, contiguous, differentiable with respect to the cores; if frozen, the kept one."""
        return self._generated() if self.frozen_weight is None else self.frozen_weight

    @weight.setter
    def weight(self, value: Any) -> None:
        self._refuse_weight()

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter, as all modules do; the weight is none."""
        if name == "weight":
            self._refuse_weight()
        super().register_parameter(name, param)

    def _refuse_weight(self) -> NoReturn:
        raise AttributeError(
            f"the weight of {type(self).__name__} is generated: write its cores (load_cores), fit them"
            " (adntn_torch.fit), or take the dense layer (to_dense)"
        )

    @property
    def _generator_here(self) -> Generator:
        """The generator of what this process makes of the weight."""
        return self.generator if self.spread is None else self.spread.generator

    def _cores_here(self) -> dict[str, Tensor]:
        """Return the cores of `_generator_here`."""
        cores = dict(self.cores.items())
        return cores if self.spread is None else self.spread.cores(cores)

    @property
    def _bias_here(self) -> nn.Parameter | None:
        """The bias, if the layer adds it itself."""
        return self.bias if self.spread is None or self.spread.adds_bias else None

    def _generated(self, plan: Plan | None = None) -> Tensor:
        """Return the weight, made from the cores: in the tiles of a plan, or as is best where there is none."""
        return self._generated_from(self._cores_here(), plan)

    def _generated_from(self, cores: Mapping[str, Tensor], plan: Plan | None) -> Tensor:
        return generate(self._generator_here, cores, self.differentiation, self._engine, self._tiles(plan))

    def _tiles(self, plan: Plan | None) -> Tiling | None:
        generator = self._generator_here
        if plan is not None and (self.memory_limit is not None or self._is_tiled()):
            return tiling(generator.network, generator.paths, plan)
        return generator.tiling(dict(self.cores.items())) if self._is_tiled() else None

    def _recomputed(self, product: Callable[[Tensor, Tensor, Tensor | None], Tensor], x: Tensor, plan: Plan) -> Tensor:
        """Return product(x, weight, bias), of which nothing but x is kept: the backward pass makes the weight again.

        It takes the cores of now: `torch.func.functional_call` has put the layer's own back by then.
        """
        cores, bias = self._cores_here(), self._bias_here
        return recomputed(lambda x: product(x, self._generated_from(cores, plan), bias), x, cores)

    def _weight_and_bias(self, plan: Plan | None = None) -> tuple[Tensor, Tensor | None]:
        """Return both in one number type, for a product of torch; the weight is made as `_generated` does."""
        weight, bias = self.frozen_weight, self._bias_here
        if weight is None:
            return self._generated(plan), bias
        if self.training and not is_traced() and self._learns():
            warnings.warn(
                f"a frozen {type(self).__name__} runs in training mode, but its cores learn nothing: unfreeze() it to"
                " train them; to run it as it is, use eval(), torch.no_grad() or cores.requires_grad_(False)",
                stacklevel=2,
            )
        return weight, bias if bias is None or bias.dtype is weight.dtype else bias.to(weight.dtype)

    def _learns(self) -> bool:
        return torch.is_grad_enabled() and any(core.requires_grad for core in self.cores.values())

    def _is_tiled(self) -> bool:
        """Return whether the weight is made in tiles, where it is made as a whole."""
        large = math.prod(self._generator_here.shape) >= TILED
        own = self.differentiation != "native" and self.engine is None
        return large and own and not is_traced() and not self.cores["scale"].is_meta

    def freeze(self, dtype: torch.dtype | None = None) -> Self:
        """Keep the weight, made once, for inference; return the layer.

        What is kept is no part of the state dict. It follows the layer to devices and number types, is made again by
        `load_cores` and `reset_parameters`, and let go by `load_state_dict`; other changes of the cores it does not
        see. The cores learn nothing meanwhile, and a warning says so in training mode; x still gets its gradient.

        >>> import adntn_torch
        >>> layer = adntn_torch.Linear(64, 64, seed=0).freeze(torch.bfloat16)
        >>> layer.frozen_weight.dtype, layer.unfreeze().frozen_weight is None
        (torch.bfloat16, True)

        Args:
            dtype: in which it is kept; x must come in it too. By default that of the cores.

        Raises:
            TypeError: if `dtype` is no number type for weights.
        """
        if dtype is not None and not (isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype.is_complex)):
            raise TypeError(f"dtype must be a floating-point type such as torch.bfloat16, or None, got {dtype!r}")
        SPARES.clear()  # the next step, if there is one, is not of training
        with torch.inference_mode(False), torch.no_grad():
            self.frozen_weight = self._generated().to(dtype or self.cores["scale"].dtype)
        return self

    def unfreeze(self) -> Self:
        """Let the kept weight go, so that it is generated from the cores again; return the layer."""
        self.frozen_weight = None
        return self

    def choice(self, rows: int, training: bool = True) -> Choice:
        """Return which schedule is taken for so many vectors (of a convolution: places in all examples), and why.

        >>> import adntn_torch
        >>> print(adntn_torch.Linear(256, 256, seed=0, schedule="stream").choice(32).taken.schedule)
        stream

        Raises:
            ValueError: if nothing fits into the layer's memory limit; the error names the least that would.
        """
        scale = self.cores["scale"]
        here = machine_of(scale)
        network, paths = self._generator_here.network, self._generator_here.paths
        keeps = training and self._keeps()
        task = Task(network, paths, rounded(rows), training, scale.element_size(), self.streams, keeps=keeps)
        if reason := self._why_in_one_piece():
            return replace(choose(task, here, "materialise"), reason=reason)
        return choose(task, here, self.schedule, self.memory_limit)

    def _why_in_one_piece(self) -> str:
        """Return why there is nothing to choose; "" where there is."""
        if self.engine is not None:
            return f"as the engine {self.engine!r} makes it"
        if self.differentiation == "native":
            return "as torch differentiates it"
        small = math.prod(self._generator_here.shape) < TILED
        return f"as all of less than {TILED:,} weights" if small and self._is_free() else ""

    def _is_free(self) -> bool:
        return self.schedule == "auto" and self.memory_limit is None

    def _scheduled(self, x: Tensor, rows: int) -> Choice | None:
        """Return the choice for x; None where the weight is made in one piece and torch sees to the rest."""
        if self.frozen_weight is not None or x.is_meta or is_traced() or self._why_in_one_piece():
            return None
        if self.schedule == "materialise" and self.memory_limit is None:
            return None
        wanted = torch.is_grad_enabled() and (x.requires_grad or self._learns())
        return self.choice(rows, training=wanted)

    @property
    def streams(self) -> bool:
        """Whether the layer can take its weight in tiles of rows."""
        return True

    def _keeps(self) -> bool:
        """Return whether the layer, where it materialises its weight, keeps it for the adjoint as it was made."""
        return False

    def _check_schedule(self) -> None:
        if self.schedule == "stream" and not self.streams:
            raise ValueError(f'schedule must not be "stream" for {self.not_streamed}; "recompute" is the next best')
        if self.schedule == "contract":
            check_contracts(self.generator.network)
        own = "differentiation" if self.engine is None else "engine"
        if own == "differentiation" and self.differentiation != "native":
            return
        if self.schedule not in {"auto", "materialise"}:
            raise ValueError(
                f'schedule must be "auto" or "materialise" with {own}={getattr(self, own)!r}, got {self.schedule!r}:'
                " the others are for torch and the library's adjoint"
            )
        if self.memory_limit is not None:
            raise ValueError(
                f"memory_limit must be None with {own}={getattr(self, own)!r}, got {self.memory_limit!r}: the weight is"
                " then made in one piece"
            )

    def tie(self, other: GeneratedLayer) -> Self:
        """Share the cores of another layer from now on, as a language model's head shares its table; return this layer.

        >>> import adntn_torch
        >>> table = adntn_torch.Embedding(1000, 64, seed=0)
        >>> head = adntn_torch.Linear(64, 1000, bias=False).tie(table)
        >>> head.cores is table.cores
        True

        Raises:
            ValueError: if the layers do not generate the same weight from the same cores.
        """
        if other.generator != self.generator:
            raise ValueError(
                f"tied layers need the same generator: one makes {self.generator.shape} by {self.topology}, the other"
                f" {other.generator.shape} by {other.topology}"
            )
        if getattr(other, "padding_idx", None) != getattr(self, "padding_idx", None):
            raise ValueError("a layer cannot be tied to a table with a padding_idx, whose row is zero there alone")
        self.cores = other.cores
        self._renew()
        return self

    @torch.no_grad()
    def reset_parameters(self, seed: int | None = None) -> None:
        """Start again: cores such that the weight has the deviation `std`, and the bias as torch starts it.

        Args:
            seed: of the cores; None draws one from torch's generator, which `torch.manual_seed` governs.

        Raises:
            ValueError: if the seed is negative, or `std` is no positive number.
        """
        scale = self.cores["scale"]
        if not scale.is_meta:  # there, as in torch.nn, the start comes after `to_empty`
            drawn = int(torch.randint(2**62, (), device="cpu")) if seed is None else seed
            dtype = str(scale.dtype).removeprefix("torch.")
            self.load_cores(self.generator.init(drawn, backend="torch", dtype=dtype, device=scale.device, std=self.std))
        if self.bias is not None:
            bound = 1.0 / math.sqrt(self.generator.fan_in)
            nn.init.uniform_(self.bias, -bound, bound)

    @torch.no_grad()
    def load_cores(self, cores: Mapping[str, Any]) -> None:
        """Copy cores into the parameters: arrays of NumPy or torch, by name, such as `Generator.init` or `fit` return.

        Raises:
            KeyError, ValueError, TypeError: if a core is missing, unknown, of a wrong shape, or complex for a real
                layer; nothing has been copied then.
        """
        self.generator.check(cores)
        arrays = {name: torch.as_tensor(cores[name]) for name in self.cores}
        for name, array in arrays.items():
            if array.is_complex() and not self.cores[name].is_complex():
                raise TypeError(f"core {name!r} is complex ({array.dtype}), the layer's are {self.cores[name].dtype}")
        for name, array in arrays.items():
            if self.spread is None:
                self.cores[name].copy_(array)
            else:
                self.spread.copy(array, self.cores[name])
        self._renew()

    def _renew(self) -> None:
        """Make the kept weight again after the cores have changed."""
        if self.frozen_weight is not None:
            self.freeze(self.frozen_weight.dtype)

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self.unfreeze()  # the cores are children: they are loaded after this

    @classmethod
    def from_dense(
        cls,
        dense: nn.Module,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        *,
        differentiation: Differentiation | None = None,
        engine: str | None = None,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
        seed: int | None = None,
        std: float | None = None,
    ) -> Self:
        """Return a layer to stand in place of a dense one: its bias (the same parameter), dtype, device and mode.

        The weight is not fitted (see `fit`); it starts with the dense weight's standard deviation, or with `std`.

        Raises:
            ValueError: if the dense weight has no finite, positive deviation and `std` is not given.
        """
        weight, bias = parameters_of(dense)
        arguments: dict[str, Any] = {name: getattr(dense, name) for name in cls.dense_arguments}
        build: Callable[..., Self] = cls
        if cls.has_bias:
            arguments["bias"] = False
        layer = build(
            **arguments,
            device=weight.device,
            dtype=weight.dtype,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            schedule=schedule,
            memory_limit=memory_limit,
            seed=seed,
            std=deviation(weight) if std is None else std,
        )
        layer.bias = bias
        return layer.train(dense.training)

    @torch.no_grad()
    def to_dense(self) -> nn.Module:
        """Return the layer of `torch.nn` with this weight, the same bias parameter and mode, up to rounding.

        The weight is made from the cores, also if a frozen layer keeps it in another number type.

        Raises:
            RuntimeError: if the layer is spread over processes.
        """
        if self.spread is not None:
            raise RuntimeError(f"a layer spread over processes cannot be made dense here: {self}")
        weight = nn.Parameter(self._generated())
        arguments = {name: getattr(self, name) for name in self.dense_arguments}
        if self.has_bias:
            arguments["bias"] = self.bias is not None
        dense = self.dense_kind(**arguments, device="meta", dtype=weight.dtype)
        dense.register_parameter("weight", weight)
        if self.has_bias:
            dense.register_parameter("bias", self.bias)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        """Return what stands between the parentheses when the layer is printed."""
        defaults = {
            "stride": 1,
            "padding": 0,
            "output_padding": 0,
            "dilation": 1,
            "groups": 1,
            "padding_mode": "zeros",
            "padding_idx": None,
        }
        shown = [
            f"{name}={value!r}"
            for name in self.dense_arguments
            if not _is(value := getattr(self, name), defaults.get(name))
        ]
        if self.has_bias:
            shown.append(f"bias={self.bias is not None}")
        shown += [f"topology={self.topology}"]
        shown += [f"parameters={self.generator.parameters:,}", f"ratio={self.generator.ratio:,.0f}"]
        if self.engine is not None:
            shown.append(f"engine={self.engine!r}")
        elif self.differentiation != "adjoint":
            shown.append(f"differentiation={self.differentiation!r}")
        if self.schedule != "auto":
            shown.append(f"schedule={self.schedule!r}")
        if self.memory_limit is not None and self.memory_limit < UNLIMITED:
            shown.append(f"memory_limit={self.memory_limit:,}")
        if self.frozen_weight is not None:
            shown.append("frozen")
        if self.spread is not None:
            shown.append(str(self.spread))
        return ", ".join(shown)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"  # one line, as torch's own layers: not one for each core


def parameters_of(dense: nn.Module) -> tuple[Tensor, nn.Parameter | None]:
    """Return the weight and the bias of a layer of torch.nn.

    Raises:
        TypeError: if it has none.
    """
    weight, bias = getattr(dense, "weight", None), getattr(dense, "bias", None)
    if not isinstance(weight, Tensor) or not (bias is None or isinstance(bias, nn.Parameter)):
        raise TypeError(f"a layer with a weight and a bias is needed, got {type(dense).__name__}")
    return weight, bias


def deviation(weight: Tensor) -> float:
    """Return the standard deviation over all elements."""
    if weight.is_meta:
        raise ValueError("the weight is on the device 'meta' and has no values; load it first, or give std")
    wide = weight.detach().to(torch.complex128 if weight.is_complex() else torch.float64)
    if not bool(torch.isfinite(wide).all()):
        raise ValueError(f"the weight of shape {tuple(weight.shape)} has NaN or infinite values")
    deviation = float(torch.std(wide, correction=0))
    if deviation == 0:
        raise ValueError(f"the weight of shape {tuple(weight.shape)} is constant; give the start's deviation as std")
    return deviation


def _is(value: object, default: object) -> bool:
    """Return whether an argument, which convolutions keep once for each axis, is the default."""
    return all(one == default for one in value) if isinstance(value, tuple) else value == default
