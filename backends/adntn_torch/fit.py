"""Cores for a given dense weight, found with torch's optimisers; decompositions to start from belong to the core."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adntn import Generator
from adntn.backends import Differentiation, checked_differentiation
from adntn_torch.differentiate import generate

#: Called after every evaluation with its number (from 1) and the relative error there.
Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class Fit:
    """The best cores that were found.

    Attributes:
        cores: detached tensors by name, in the weight's dtype and on its device.
        error: their relative Frobenius error, |W - target| / |target|.
        history: the error at every evaluation, the start first.
    """

    cores: dict[str, Tensor] = field(repr=False)
    error: float
    history: tuple[float, ...] = field(repr=False)


def fit(
    generator: Generator,
    target: Tensor,
    *,
    start: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    adam: int = 0,
    lbfgs: int = 100,
    learning_rate: float = 1e-2,
    differentiation: Differentiation | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Return the cores for which the generator comes closest to a weight: steps of Adam, then of L-BFGS.

    >>> import adntn
    >>> generator = adntn.LowRank((6, 4), rank=4)
    >>> fit(generator, torch.eye(6, 4), lbfgs=50).error < 1e-3
    True

    A trained weight is hardly compressible: expect errors near 1 at large ratios.

    Args:
        generator: its shape is that of `target`.
        target: the weight, real or complex.
        start: cores to begin with; None draws them from `seed`.
        seed: of the start.
        adam: number of steps of Adam, 0 for none.
        lbfgs: number of steps of L-BFGS with a strong Wolfe line search, 0 for none.
        learning_rate: of Adam.
        differentiation: "native", torch's own (None is the same), or "adjoint".
        progress: called after every evaluation with its number and the error.

    Raises:
        ValueError: if the target has another shape, NaN or infinite values, or is zero; or if a count is negative.
        KeyError, TypeError: if the start does not fit the generator.
    """
    for name, count in (("adam", adam), ("lbfgs", lbfgs)):
        if count < 0:
            raise ValueError(f"{name} must be a number of steps of at least 0, got {count}")
    _check_target(generator, target)
    search = _Search(
        generator,
        target.detach(),
        start=start,
        seed=seed,
        differentiation=checked_differentiation(differentiation),
        progress=progress,
    )
    parameters = list(search.cores.values())
    if adam:
        optimiser = torch.optim.Adam(parameters, lr=learning_rate)
        for _ in range(adam):
            search.evaluate()
            optimiser.step()
    if lbfgs:
        search.restore_best()
        tiny = torch.finfo(target.dtype).eps
        newton = torch.optim.LBFGS(
            parameters,
            max_iter=lbfgs,
            history_size=20,
            tolerance_grad=tiny,
            tolerance_change=tiny**2,
            line_search_fn="strong_wolfe",
        )
        newton.step(search.evaluate)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        search.evaluate()
    return search.result()


def _check_target(generator: Generator, target: Tensor) -> None:
    if tuple(target.shape) != generator.shape:
        raise ValueError(f"target must have the generator's shape {generator.shape}, got {tuple(target.shape)}")
    if not (target.is_floating_point() or target.is_complex()):
        raise ValueError(f"target must have a floating-point dtype, got {target.dtype}")
    if not bool(torch.isfinite(target).all()):
        raise ValueError("target has NaN or infinite values")
    if not bool(target.any()):
        raise ValueError("target is zero: there is no relative error")


class _Search:
    """The cores on their way, the best so far, and the errors met."""

    def __init__(
        self,
        generator: Generator,
        target: Tensor,
        *,
        start: Mapping[str, Tensor] | None,
        seed: int,
        differentiation: Differentiation,
        progress: Progress | None,
    ) -> None:
        self.generator, self.target, self.differentiation, self.progress = generator, target, differentiation, progress
        self.norm = torch.linalg.vector_norm(target)
        given = self._drawn(seed) if start is None else start
        generator.check(given)
        self.cores = {
            name: torch.as_tensor(given[name]).detach().to(target, copy=True).requires_grad_()
            for name in generator.core_shapes
        }
        self.best, self.error = self._copy(), math.inf
        self.history: list[float] = []

    def _drawn(self, seed: int) -> Mapping[str, Tensor]:
        root_mean_square = float(self.norm) / math.sqrt(self.target.numel())
        dtype = str(self.target.dtype).removeprefix("torch.")
        drawn: Mapping[str, Tensor] = self.generator.init(seed, backend="torch", dtype=dtype, std=root_mean_square)
        return drawn

    def _copy(self) -> dict[str, Tensor]:
        return {name: core.detach().clone() for name, core in self.cores.items()}

    def evaluate(self) -> Tensor:
        """Return the squared relative error with its gradient in the cores; remember it."""
        for core in self.cores.values():
            core.grad = None
        weight = generate(self.generator, self.cores, self.differentiation)
        loss: Tensor = (torch.linalg.vector_norm(weight - self.target) / self.norm) ** 2
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        error = math.sqrt(float(loss.detach()))
        self.history.append(error)
        if error < self.error:
            self.best, self.error = self._copy(), error
        if self.progress is not None:
            self.progress(len(self.history), error)
        return loss

    @torch.no_grad()
    def restore_best(self) -> None:
        """Go back to the best cores so far."""
        for name, core in self.best.items():
            self.cores[name].copy_(core)

    def result(self) -> Fit:
        return Fit(self.best, self.error, tuple(self.history))
