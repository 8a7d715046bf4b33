"""Compare second order with Adam, loss against time: `python -m benchmarks.second_order --out docs/results`.

On three fits and one task. Seconds are the processor's, on one thread, without what is done only to measure: they do
not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import adntn
import adntn_torch
from adntn.commands.output import console, write_whole
from adntn.fit import Method
from adntn_torch.gauss_newton import GaussNewton
from benchmarks.search_page import Run, Subject, draw, page, thinned

TRAINED_ON = 1000
BATCH = 50
RATES = (3e-3, 1e-2, 3e-2, 1e-1)


class OutOfTimeError(Exception):
    """The budget is spent."""


class Record:
    """The lowest loss so far, against the seconds that it took."""

    def __init__(self, budget: float) -> None:
        self.budget, self.points = budget, list[tuple[float, float]]()
        self._start = time.process_time()

    @property
    def seconds(self) -> float:
        """How long the method has worked."""
        return time.process_time() - self._start

    @property
    def left(self) -> float:
        """The share of the budget that is left."""
        return max(0.0, 1 - self.seconds / self.budget)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which the clock stands."""
        before = time.process_time()
        yield
        self._start += time.process_time() - before

    def add(self, loss: float) -> None:
        """Note a loss.

        Raises:
            OutOfTimeError: if the budget is spent.
        """
        lowest = min(loss, self.points[-1][1]) if self.points else loss
        self.points.append((self.seconds, lowest))
        if self.left == 0:
            raise OutOfTimeError


def kernel(size: int) -> Any:
    """Return a weight with structure: the covariance of a process whose paths are continuous but not smooth."""
    places = np.linspace(0, 1, size)
    return np.exp(-np.abs(places[:, None] - places) / 0.1)


@dataclass(frozen=True)
class Target:
    """A weight to fit, and where each seed starts."""

    generator: adntn.Generator
    weight: Any
    started: Callable[[int], dict[str, Any]]
    start: str


def kernel_target(generator: adntn.Generator) -> Target:
    """Return the kernel, started at random."""
    weight = kernel(generator.shape[0])
    return Target(
        generator, weight, lambda seed: adntn.fit(generator, weight, seed=seed, iterations=0).cores, "at random"
    )


def own_target(generator: adntn.Generator) -> Target:
    """Return a weight that the generator makes of cores of its own, started a tenth off these."""
    cores = generator.init(0, dtype="float64")

    def started(seed: int) -> dict[str, Any]:
        noise = np.random.default_rng(seed)
        sizes = {name: 0.1 * np.sqrt(np.mean(core**2)) for name, core in cores.items()}
        return {name: core + sizes[name] * noise.standard_normal(core.shape) for name, core in cores.items()}

    return Target(generator, generator.weight(cores), started, "a tenth off the cores that the weight is made of")


def fit(method: Method, target: Target, seed: int, record: Record) -> float:
    """Fit a weight with a method of `adntn.fit`."""
    cores = target.started(seed)
    start = adntn.fit(target.generator, target.weight, cores=cores, iterations=0)
    with record.paused():
        record.add(start.error)
    adntn.fit(
        target.generator,
        target.weight,
        cores=cores,
        iterations=10**6,
        method=method,
        progress=lambda _, error: record.add(error),
    )
    return math.nan


def fit_by_adam(rate: float, target: Target, seed: int, record: Record) -> float:
    """Fit a weight with Adam; its learning rate falls to zero in a line."""
    norm, cores = float(np.linalg.norm(target.weight)), target.started(seed)
    adam = adntn.Adam(rate)
    state = adam.init(cores)
    while True:
        generated, pullback = target.generator.vjp(cores)
        difference = (generated - target.weight) / norm
        record.add(float(np.linalg.norm(difference)))
        adam = replace(adam, learning_rate=rate * max(record.left, 1e-9))
        cores, state = adam.update(cores, pullback(2 / norm * difference), state)


@dataclass(frozen=True)
class Task:
    """A small network for scikit-learn's digits, all of whose weights are generated."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor

    @staticmethod
    def started(seed: int) -> Task:
        """Return it as a seed starts it."""
        torch.manual_seed(seed)
        options = adntn.TTN.options(bond=2, activation="tanh")
        model = nn.Sequential(
            adntn_torch.Linear(64, 128, topology=options, bias=False),
            nn.Tanh(),
            adntn_torch.Linear(128, 128, topology=options, bias=False),
            nn.Tanh(),
            adntn_torch.Linear(128, 10, topology=options, bias=False),
        )
        images, labels = load_digits(return_X_y=True)
        return Task(model, torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))

    @property
    def trained_on(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels to train on."""
        return self.inputs[:TRAINED_ON], self.labels[:TRAINED_ON]

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return nn.functional.cross_entropy(self.model(inputs), labels)

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the share of the other images that is recognised."""
        found = self.model(self.inputs[TRAINED_ON:]).argmax(-1)
        return float((found == self.labels[TRAINED_ON:]).double().mean())


def searched(task: Task, record: Record, steps: Callable[[Task, Record], None]) -> float:
    """Note the first loss, take steps until the time is up, and return the accuracy."""
    with suppress(OutOfTimeError):
        with record.paused(), torch.no_grad():
            record.add(float(task.loss(*task.trained_on)))
        steps(task, record)
    return task.accuracy()


def task_by_adam(rate: float, seed: int, record: Record) -> float:
    """Train with Adam on small batches; its learning rate falls to zero in a line."""

    def steps(task: Task, record: Record) -> None:
        inputs, labels = task.trained_on
        adam = torch.optim.Adam(task.model.parameters(), lr=rate)
        while True:
            for batch in torch.split(torch.randperm(len(inputs)), BATCH):
                for group in adam.param_groups:
                    group["lr"] = rate * record.left
                adam.zero_grad()
                task.loss(inputs[batch], labels[batch]).backward()  # type: ignore[no-untyped-call]
                adam.step()
            with record.paused(), torch.no_grad():
                loss = float(task.loss(inputs, labels))
            record.add(loss)

    return searched(Task.started(seed), record, steps)


def task_by_lbfgs(seed: int, record: Record) -> float:
    """Train with torch's L-BFGS on all images at once."""

    def steps(task: Task, record: Record) -> None:
        lbfgs = torch.optim.LBFGS(
            task.model.parameters(), max_iter=10**6, history_size=20, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            lbfgs.zero_grad()
            loss = task.loss(*task.trained_on)
            loss.backward()  # type: ignore[no-untyped-call]
            record.add(float(loss.detach()))
            return float(loss.detach())

        lbfgs.step(closure)  # type: ignore[no-untyped-call]

    return searched(Task.started(seed), record, steps)


def task_by_gauss_newton(seed: int, record: Record) -> float:
    """Train with Levenberg-Marquardt steps on all images at once."""

    def steps(task: Task, record: Record) -> None:
        search = GaussNewton(task.model, dict(task.model.named_parameters()), "cross-entropy", chunk=64)
        while True:
            record.add(search.step(*task.trained_on))

    return searched(Task.started(seed), record, steps)


#: Searches from the start of a seed until the time is up, and returns the accuracy at the end, or NaN.
Search = Callable[[int, Record], float]


@dataclass(frozen=True)
class Problem(Subject):
    """What is compared on."""

    methods: dict[str, Search]
    adam: Callable[[float], Search]


def problem_of_fit(target: Target, weight: str, topology: str) -> Problem:
    """Return the fit of a weight by a generator."""
    methods: dict[str, Method] = {"L-BFGS": "l-bfgs", "Levenberg-Marquardt": "levenberg-marquardt"}
    return Problem(
        f"{weight} by a {topology}",
        "relative error",
        f"{' x '.join(map(str, target.generator.shape))} by a {topology} with tanh: {target.generator.parameters}"
        f" numbers, in double precision, started {target.start}",
        {name: partial(fit, method, target) for name, method in methods.items()},
        lambda rate: partial(fit_by_adam, rate, target),
    )


def problems() -> list[Problem]:
    """Return the fits and the task."""
    count = sum(one.numel() for one in Task.started(0).model.parameters())
    return [
        problem_of_fit(
            own_target(adntn.TTN((128, 128), bond=2, activation="tanh")), "a weight of its own kind", "TTN of bond 2"
        ),
        problem_of_fit(
            kernel_target(adntn.TTN((128, 128), bond=3, activation="tanh")), "exp(-10 |x - y|)", "TTN of bond 3"
        ),
        problem_of_fit(
            kernel_target(adntn.MERA((256, 256), bond=2, activation="tanh")), "exp(-10 |x - y|)", "MERA of bond 2"
        ),
        Problem(
            "task",
            "training loss",
            f"{TRAINED_ON:,} of scikit-learn's digits, by a network 64 - 128 - 128 - 10 with tanh; its weights come"
            f" from TTNs of bond 2 with tanh: {count} numbers, in single precision. Adam takes batches of {BATCH}, the"
            " others all images at once",
            {"L-BFGS": task_by_lbfgs, "Levenberg-Marquardt": task_by_gauss_newton},
            lambda rate: partial(task_by_adam, rate),
        ),
    ]


def run(problem: Problem, method: str, search: Search, seed: int, *, budget: float, rate: float | None = None) -> Run:
    """Return what a search finds within its budget."""
    record, accuracy = Record(budget), math.nan
    with suppress(OutOfTimeError):
        accuracy = search(seed, record)
    return Run(problem.name, method, seed, rate, tuple(record.points), accuracy)


def compared(problem: Problem, seeds: int, budget: float) -> list[Run]:
    """Return all runs; Adam's learning rate is the best one for the first seed."""
    tried = [run(problem, "Adam", problem.adam(rate), 0, budget=budget, rate=rate) for rate in RATES]
    best = min(tried, key=lambda one: one.points[-1][1])
    if best.rate is None:
        raise RuntimeError("Adam has a learning rate")
    runs = [best]
    for seed in range(1, seeds):
        runs.append(run(problem, "Adam", problem.adam(best.rate), seed, budget=budget, rate=best.rate))
    for name, search in problem.methods.items():
        runs += [run(problem, name, search, seed, budget=budget) for seed in range(seeds)]
    return runs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, print the tables, and write page, numbers and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_order", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="starts (default: 3)")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each search (default: 10)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for page, numbers and plot")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    every = problems()
    runs = [one for problem in every for one in compared(problem, parsed.seeds, parsed.budget)]
    parsed.out.mkdir(parents=True, exist_ok=True)
    text = page(runs, every, parsed.budget, parsed.seeds, RATES)
    numbers = [asdict(one) | {"points": thinned(one.points)} for one in runs]
    write_whole(parsed.out / "second-order.json", json.dumps(numbers) + "\n")
    write_whole(parsed.out / "second-order.md", text)
    draw(runs, every, parsed.budget, parsed.out / "second-order.png")
    console().print(text, markup=False)


if __name__ == "__main__":
    main()
