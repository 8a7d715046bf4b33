"""Cores for a given dense weight, found with torch's optimisers; decompositions to start from belong to the core."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adntn import Generator
from adntn import fit as core_fit
from adntn.backends import Differentiation, checked_differentiation
from adntn.fit import best_factor
from adntn.network import SCALE
from adntn_torch.differentiate import generate

#: Called after every evaluation with its number (from 1) and the relative error there.
Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class Fit:
    """The best cores that were found.

    Attributes:
        cores: detached tensors by name, in the weight's dtype and on its device.
        error: their relative Frobenius error, |W - weight| / |weight|.
        history: the error at every evaluation, the start first.
    """

    cores: dict[str, Tensor] = field(repr=False)
    error: float
    history: tuple[float, ...] = field(repr=False)


def fit(
    generator: Generator,
    weight: Tensor,
    *,
    cores: Mapping[str, Tensor] | None = None,
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
        generator: its shape is that of `weight`.
        weight: real or complex; the search runs in double precision.
        cores: where to start; None starts as `adntn.fit` does, from the hierarchical SVD where there is one.
        seed: of the start where there is none.
        adam: number of steps of Adam, 0 for none.
        lbfgs: number of steps of L-BFGS with a strong Wolfe line search, 0 for none.
        learning_rate: of Adam.
        differentiation: "native", torch's own (None is the same), or "adjoint".
        progress: called after every evaluation with its number and the error.

    Raises:
        ValueError: if the weight has another shape, NaN or infinite values, or is zero; or if a count is negative.
        KeyError, TypeError: if the cores do not fit the generator, or something is no tensor.
    """
    for name, count in (("adam", adam), ("lbfgs", lbfgs)):
        if count < 0:
            raise ValueError(f"{name} must be a number of steps of at least 0, got {count}")
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a torch.Tensor, got {type(weight).__name__}; adntn.fit takes other arrays")
    # next to 1, single precision has no room for the small steps by which an error leaves it
    has_fractions = weight.is_floating_point() or weight.is_complex()  # else the start refuses it
    target = weight.detach().to(torch.promote_types(weight.dtype, torch.float64) if has_fractions else weight.dtype)
    search = _Search(
        generator,
        target,
        start=core_fit(generator, target, cores=cores, seed=seed, iterations=0).cores,
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
        return search.result(weight.dtype)


class _Search:
    """The cores on their way, the best so far, and the errors met."""

    def __init__(
        self,
        generator: Generator,
        target: Tensor,
        *,
        start: Mapping[str, Tensor],
        differentiation: Differentiation,
        progress: Progress | None,
    ) -> None:
        self.generator, self.target, self.differentiation, self.progress = generator, target, differentiation, progress
        self.norm = torch.linalg.vector_norm(target)
        generator.check(start)
        self.cores = {
            name: torch.as_tensor(start[name]).detach().to(target, copy=True).requires_grad_()
            for name in generator.core_shapes
        }
        self.best, self.error = self._copy(), math.inf
        self.history: list[float] = []

    def _copy(self) -> dict[str, Tensor]:
        return {name: core.detach().clone() for name, core in self.cores.items()}

    def evaluate(self) -> Tensor:
        """Return the squared relative error at the best scale, with its gradient in the cores; remember it.

        What the scale is does not matter, then, and its gradient is zero: see `adntn.fit.best_factor`.
        """
        for core in self.cores.values():
            core.grad = None
        weight = generate(self.generator, self.cores, self.differentiation)
        factor = best_factor(self.generator, weight.detach(), self.target)
        loss: Tensor = (torch.linalg.vector_norm(factor * weight - self.target) / self.norm) ** 2
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        error = math.sqrt(float(loss.detach()))
        self.history.append(error)
        if error < self.error:
            self.best, self.error = self._copy(), error
            self.best[SCALE] *= factor.reshape(self.best[SCALE].shape)
        if self.progress is not None:
            self.progress(len(self.history), error)
        return loss

    @torch.no_grad()
    def restore_best(self) -> None:
        """Go back to the best cores so far."""
        for name, core in self.best.items():
            self.cores[name].copy_(core)

    def result(self, dtype: torch.dtype) -> Fit:
        """Return the best cores in a number type, with the error that they have in it."""
        if dtype == self.target.dtype:
            return Fit(self.best, self.error, tuple(self.history))
        rounded = {name: core.to(dtype) for name, core in self.best.items()}
        difference = self.generator.weight(rounded).to(self.target) - self.target
        error = float(torch.linalg.vector_norm(difference) / self.norm)
        return Fit(rounded, error, tuple(self.history))
