"""Damped Gauss-Newton steps on the loss of a task, for a few parameters of a model: the cores of generated layers.

The outputs of a model are linear in a small step, and the loss is quadratic in the outputs: together they are a
quadratic model of the loss, which is minimised. It takes one forward-mode derivative of the outputs for each number, so
a few hundred numbers are affordable and a few million are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.linalg import LinAlgError
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap

from adntn.levenberg_marquardt import EPSILON, LEAST_GAIN, MOST_DAMPING, Damping, damped_step

#: The losses whose second derivatives in the outputs are known here.
Loss = Literal["mse", "cross-entropy"]
LOSSES: tuple[str, ...] = get_args(Loss)
#: From outputs and targets to the loss, its gradient in the outputs, and J -> H J for rows of J in the outputs' shape.
Quadratic = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]


class GaussNewton:
    """Takes Levenberg-Marquardt steps: damped Gauss-Newton steps, of which only those are kept that lower the loss.

    >>> import adntn, adntn_torch
    >>> model = nn.Sequential(adntn_torch.Linear(8, 8, topology=adntn.TTN.options(bond=2)), nn.Tanh())
    >>> search = GaussNewton(model, dict(model.named_parameters()), loss="mse")
    >>> x, y = torch.eye(8), torch.zeros(8, 8)
    >>> losses = [search.step(x, y) for _ in range(5)]
    >>> losses[-1] < 0.1 * losses[0]
    True

    For full batches, or batches large enough that what a step gains on one is a gain: the quadratic model is of this
    batch alone. With cross-entropy the matrix is the generalised Gauss-Newton matrix J^T H J, H being the second
    derivatives of the loss in the logits, which is the Fisher matrix of the model.

    Attributes:
        damping: how far the quadratic model is trusted now.

    Source: N. N. Schraudolph, Neural Computation 14, 1723 (2002), for the generalised matrix.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, Tensor] | Iterable[str],
        loss: Loss = "mse",
        *,
        damping: float = 1e-3,
        chunk: int | None = None,
    ) -> None:
        """Choose what moves.

        Args:
            model: of one input; layers that behave differently in training (dropout) would give every step another
                loss: call `model.eval()`.
            parameters: of the model, real, by the names of `model.named_parameters()`, or their names alone.
            loss: "mse", the mean squared error of all outputs, or "cross-entropy", of logits of shape (rows, classes)
                and integer targets, the mean over rows.
            damping: to begin with, as a share of the diagonal; above 0.
            chunk: how many derivatives are made at once, by default all: it bounds memory, nothing else.

        Raises:
            KeyError: if the model has no parameter of such a name.
            ValueError: if there is no such loss, or no parameter, or a number is out of range.
            TypeError: if a parameter is no real floating-point tensor.
        """
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
        if not (math.isfinite(damping) and damping > 0):
            raise ValueError(f"damping must be a positive number, got {damping!r}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, or None, got {chunk!r}")
        own = dict(model.named_parameters())
        names = list(parameters)
        if not names:
            raise ValueError("parameters must name at least one parameter of the model, got none")
        for name in names:
            if not isinstance(name, str):
                raise TypeError(
                    "parameters must be names, or a mapping by names such as dict(model.named_parameters()), got"
                    f" {type(name).__name__}"
                )
            if isinstance(parameters, Mapping) and parameters[name] is not own.get(name):
                raise ValueError(f"parameters must be the model's own, but {name!r} is another tensor")
            if name not in own:
                raise KeyError(f"the model has no parameter {name!r}; it has {', '.join(own)}")
            if not own[name].is_floating_point():
                raise TypeError(f"parameter {name!r} must hold real numbers, got {own[name].dtype}")
        self.model, self.chunk, self.damping = model, chunk, Damping(damping)
        self._parameters = {name: own[name] for name in names}
        self._quadratic: Quadratic = _mean_squared_error if loss == "mse" else _cross_entropy

    @torch.no_grad()
    def step(self, inputs: Tensor, targets: Tensor) -> float:
        """Move the parameters to where the loss is lower, and return the loss there.

        If no step lowers it, even a short one, the parameters stay as they are: this is a minimum, or rounding.

        Args:
            inputs: what the model is called with.
            targets: what its outputs should be.

        Raises:
            ValueError: if the outputs and the targets do not fit together, or the loss is not finite.
        """
        outputs, jacobian = self._linearised(inputs)
        loss, slope, curve = self._quadratic(outputs, targets)
        value = float(loss)
        if not math.isfinite(value):
            raise ValueError(f"the loss must be finite where a step begins, got {value}")
        rows = jacobian.flatten(1)
        gradient = _on_host(rows @ slope.flatten())
        matrix = _on_host(curve(jacobian).flatten(1) @ rows.T)
        before = {name: parameter.clone() for name, parameter in self._parameters.items()}
        while True:
            try:
                step, predicted = damped_step(matrix, gradient, self.damping)
            except LinAlgError:
                self.damping = self.damping.after(0.0)
                continue
            if self.damping.value > MOST_DAMPING or not predicted > EPSILON * value:
                self.damping = Damping()
                self._move(before, np.zeros_like(step))
                return value
            try:
                self._move(before, step)
                ahead = float(self._quadratic(self.model(inputs), targets)[0])
            except BaseException:  # nobody wants to be left at a trial
                self._move(before, np.zeros_like(step))
                raise
            gain = (value - ahead) / predicted
            self.damping = self.damping.after(gain)
            if gain > LEAST_GAIN:
                return ahead

    def state_dict(self) -> dict[str, float]:
        """Return what the next step depends on, beside the parameters."""
        return {"damping": self.damping.value, "growth": self.damping.growth}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on where `state_dict` was called.

        Raises:
            KeyError: if something is missing.
            ValueError: if a number is out of range.
        """
        damping = Damping(float(state["damping"]), float(state["growth"]))
        if not (damping.value > 0 and damping.growth > 1):
            raise ValueError(f"state must have a positive damping and a growth above 1, got {dict(state)}")
        self.damping = damping

    def _linearised(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs, and their derivatives: shape (numbers of the parameters, *outputs)."""
        here = {name: parameter.detach() for name, parameter in self._parameters.items()}
        sizes = [parameter.numel() for parameter in here.values()]
        units = torch.eye(sum(sizes), dtype=torch.bool, device=inputs.device)

        def outputs_of(parameters: dict[str, Tensor]) -> Tensor:
            made: Tensor = functional_call(self.model, parameters, (inputs,))
            return made

        def along(unit: Tensor) -> Tensor:
            parts = zip(here.items(), torch.split(unit, sizes), strict=True)
            direction = {name: part.reshape(one.shape).to(one) for (name, one), part in parts}
            derivative: Tensor = jvp(outputs_of, (here,), (direction,))[1]
            return derivative

        return outputs_of(here), vmap(along, chunk_size=self.chunk)(units)

    def _move(self, before: Mapping[str, Tensor], step: Any) -> None:
        place = 0
        for name, parameter in self._parameters.items():
            share = torch.from_numpy(step[place : place + parameter.numel()]).reshape(parameter.shape)
            parameter.copy_(before[name].double() + share.to(parameter.device))
            place += parameter.numel()


def _on_host(tensor: Tensor) -> Any:
    return tensor.double().cpu().numpy()


def _mean_squared_error(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"targets must have the shape of the outputs {tuple(outputs.shape)}, got {tuple(targets.shape)}"
        )
    difference = outputs - targets
    share = 2 / outputs.numel()
    return difference.square().mean(), share * difference, lambda jacobian: share * jacobian


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or targets.is_floating_point():
        raise ValueError(
            "cross-entropy needs logits of shape (rows, classes) and integer targets of shape (rows,), got"
            f" {tuple(logits.shape)} and {tuple(targets.shape)} of {targets.dtype}"
        )
    chances = logits.softmax(-1)
    slope = (chances - nn.functional.one_hot(targets, logits.shape[-1])) / len(logits)

    def curve(jacobian: Tensor) -> Tensor:
        """Return (diag(chances) - chances chances^T) J / rows."""
        weighted = chances * jacobian
        return (weighted - chances * weighted.sum(-1, keepdim=True)) / len(logits)

    return nn.functional.cross_entropy(logits, targets), slope, curve
