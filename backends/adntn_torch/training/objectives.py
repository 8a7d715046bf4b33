"""What is made small: functions of a batch and of the model's outputs for it, made from plain losses, and their sums.

An objective is any function `objective(batch, outputs)` that returns one number to differentiate; a lambda will do. The
model has run once, whatever is summed:

>>> from torch.nn import functional
>>> teacher = Teacher(nn.Linear(4, 3))
>>> objective = weighted_sum((0.3, task(functional.cross_entropy)), (0.7, logits(teacher, temperature=2.0)))
>>> student, batch = nn.Linear(4, 3), (torch.ones(8, 4), torch.zeros(8, dtype=torch.long))
>>> objective(batch, student(batch[0])).shape
torch.Size([])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adntn_torch.choose import some
from adntn_torch.training.fitting import check_targets, relative_error

#: From a batch and what the model made of it to a number that is to become small.
Objective = Callable[[Any, Any], Tensor]
#: From a model and a batch to outputs.
Forward = Callable[[nn.Module, Any], Any]


def forward(model: nn.Module, batch: Any) -> Any:
    """Return what a model makes of a batch: `model(**batch)` of a mapping, `model(inputs)` of (inputs, targets).

    >>> forward(nn.ReLU(), (torch.tensor([-1.0, 2.0]), "targets"))
    tensor([0., 2.])
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


def task(loss: Callable[[Any, Any], Tensor]) -> Objective:
    """Return the objective of the task itself, `loss(outputs, targets)`, where a batch is (inputs, targets)."""
    return lambda batch, outputs: loss(outputs, batch[1])


class Teacher:
    """A trained network to learn from. It runs once for a batch, however many objectives ask.

    It is no module: its network is not in the student's parameters and checkpoints, and must be brought to the batches'
    device. A batch is known by its identity: one that is filled anew in place gets the answer to what was in it before.

    Args:
        model: put into evaluation mode; nothing is differentiated through it.
        features: names of submodules whose outputs are kept too.
        forward: how it runs on a batch.

    Raises:
        ValueError: if the model has no submodule of such a name.
    """

    def __init__(self, model: nn.Module, *, features: Iterable[str] = (), forward: Forward = forward) -> None:
        self.names = tuple(_submodules(model, features))
        self.model, self._forward = model.eval(), forward
        self._batch: Any = None
        self._answer: tuple[Any, dict[str, Tensor]] = None, {}

    def outputs(self, batch: Any) -> Any:
        """Return the outputs for a batch."""
        return self._run(batch)[0]

    def features(self, batch: Any) -> dict[str, Tensor]:
        """Return the features for a batch, by name."""
        return self._run(batch)[1]

    @torch.no_grad()
    def _run(self, batch: Any) -> tuple[Any, dict[str, Tensor]]:
        if batch is not self._batch or batch is None:
            with capture(self.model, self.names) as found:
                outputs = self._forward(self.model, batch)
                self._answer = outputs, dict(found)
            self._batch = batch
        return self._answer


@contextmanager
def capture(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Give a dictionary that holds, after every run of the model, what these submodules returned.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with capture(model, ["1"]) as found:
    ...     _ = model(torch.ones(5, 4))
    ...     print(found["1"].shape)
    torch.Size([5, 8])

    Of a tuple, as attention returns it, the first element is kept. Of a submodule that runs several times, the last.

    Raises:
        ValueError: if the model has no submodule of such a name.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[name] = output[0] if isinstance(output, tuple | list) else output

        return hook

    modules = _submodules(model, names)
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        found.clear()
        for handle in handles:
            handle.remove()


def logits(teacher: Teacher, *, temperature: float = 1.0) -> Objective:
    """Return the objective that the outputs, as logits, become the teacher's; see `logits_loss`.

    Raises:
        ValueError: if the temperature is not a number above 0; when it is called, if the shapes differ.
    """
    _check_temperature(temperature)
    return lambda batch, outputs: logits_loss(outputs, teacher.outputs(batch), temperature=temperature)


def logits_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) over the last axis, the mean over all others.

    >>> logits_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 3.0]]), temperature=3.0).item()
    0.0

    T^2 makes gradients of the same size at every temperature. Where the teacher has -inf, nothing is added.

    Raises:
        ValueError: if the shapes differ, or the temperature is not a number above 0.

    Source: G. Hinton, O. Vinyals, J. Dean, arXiv:1503.02531.
    """
    _check_temperature(temperature)
    _check_alike("logits", student, teacher)
    ours, theirs = (functional.log_softmax(one / temperature, -1) for one in (student, teacher))
    excluded = theirs.isneginf()  # p log p is 0 there, which 0 * -inf is not
    ours, theirs = (one.masked_fill(excluded, 0.0) for one in (ours, theirs))
    rows = max(1, math.prod(student.shape[:-1]))
    return temperature**2 / rows * functional.kl_div(ours, theirs, reduction="sum", log_target=True)


def features(captured: Mapping[str, Tensor], teacher: Teacher) -> Objective:
    """Return the objective that submodules return what the teacher's of the same names do; see `features_loss`.

    Args:
        captured: what `capture` gives for the student, with the names that the teacher was given.
        teacher: with features.

    Raises:
        ValueError: if the teacher keeps no features; when it is called, if a name was not captured or shapes differ.
    """
    if not teacher.names:
        raise ValueError("teacher must keep features: Teacher(model, features=[...]) with names of its submodules")

    def objective(batch: Any, outputs: Any) -> Tensor:
        return features_loss(captured, teacher.features(batch))

    return objective


def features_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Return the squared relative error |student - teacher|^2 / |teacher|^2, the mean over the teacher's features.

    Relative, so that layers with large outputs do not outweigh the others.

    Raises:
        ValueError: if the student lacks a feature, or one has another shape.

    Source: A. Romero et al., FitNets, arXiv:1412.6550.
    """
    if missing := [name for name in teacher if name not in student]:
        raise ValueError(f"nothing was captured of the student's {some(missing)}; captured are {some([*student])}")
    for name, wanted in teacher.items():
        _check_alike(f"features {name!r}", student[name], wanted)
    return torch.stack([relative_error(student[name], wanted) for name, wanted in teacher.items()]).mean()


def weight_fit(model: nn.Module, targets: Mapping[str, Tensor]) -> Objective:
    """Return the objective that generated weights become these: |W - target|^2 / |target|^2, summed over layers.

    It needs neither batch nor outputs; alone, run it with `forward=lambda model, batch: None`.

    Args:
        model: with generated layers.
        targets: a weight for each layer by name, such as `dense_weights` returns.

    Raises:
        ValueError: if there is no target, one is for no generated layer, of another shape, or zero.
    """
    layers = check_targets(model, targets)

    def objective(batch: Any, outputs: Any) -> Tensor:
        errors = [relative_error(layer.weight, targets[name]) for name, layer in layers.items()]
        return torch.stack(errors).sum()

    return objective


def weighted_sum(*terms: tuple[float, Objective]) -> Objective:
    """Return the sum of objectives, each times a number.

    Raises:
        ValueError: if there is none, or a number is not finite.
    """
    if not terms:
        raise ValueError("weighted_sum needs at least one pair of a number and an objective")
    for weight, _ in terms:
        if not math.isfinite(weight):
            raise ValueError(f"an objective's weight must be a finite number, got {weight}")

    def objective(batch: Any, outputs: Any) -> Tensor:
        return torch.stack([weight * term(batch, outputs) for weight, term in terms]).sum()

    return objective


def _submodules(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    if isinstance(names, str):
        raise TypeError(f"names of submodules must come as a list, got the text {names!r}")
    modules = dict(model.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise ValueError(
            f"the model has no submodules {some(unknown)}; it has {some([name for name in modules if name])}"
        )
    return {name: modules[name] for name in names}


def _check_alike(what: str, student: Any, teacher: Any) -> None:
    for owner, value in (("student", student), ("teacher", teacher)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"the {owner}'s {what} must be a tensor, got {type(value).__name__}; give a forward that returns one"
            )
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's {what} have shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}"
        )


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
