"""Thousands of steps of training in one process: what it holds must not grow.

>>> growth([(100, 5.0), (200, 6.0), (300, 7.0)])
0.01
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import adntn
from adntn.benchmarking.fresh import in_fresh_process
from adntn.benchmarking.memory import ProcessMeter

Step = Callable[[], object]
#: Steps before memory is looked at for the first time, and how often it is looked at.
WARM, LOOKS = 1000, 20
TOPOLOGY = adntn.TTN.options(bond=2, last_activation="tanh")
SIZE, ROWS = 256, 8


def numpy_step() -> Step:
    """Return a step of gradient descent by the library's adjoint, tile by tile."""
    generator = TOPOLOGY((SIZE, SIZE))
    cores = generator.init(0)
    x = np.ones((ROWS, SIZE), "float32")

    def step() -> None:
        y, pullback = generator.apply_vjp(cores, x, schedule="stream")
        _, gradients = pullback(y)
        for name in cores:
            cores[name] = cores[name] - np.float32(1e-5) * gradients[name]

    return step


def torch_step(schedule: str) -> Step:
    """Return a step of Adam."""
    import torch  # noqa: PLC0415

    import adntn_torch  # noqa: PLC0415  (a process that measures another library need not load it)

    layer = adntn_torch.Linear(SIZE, SIZE, topology=TOPOLOGY, schedule=schedule, seed=0)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-4)
    x = torch.ones(ROWS, SIZE)

    def step() -> None:
        optimiser.zero_grad()
        layer(x).square().mean().backward()
        optimiser.step()

    return step


def jax_step() -> Step:
    """Return a compiled step of gradient descent."""
    import jax  # noqa: PLC0415

    generator = TOPOLOGY((SIZE, SIZE))
    kept = {"cores": generator.init(0, backend="jax")}
    x = jax.numpy.ones((ROWS, SIZE))
    descend: Any = jax.jit(
        lambda cores, x: jax.tree.map(
            lambda core, gradient: core - 1e-4 * gradient,
            cores,
            jax.grad(lambda cores: (generator.apply(cores, x) ** 2).mean())(cores),
        )
    )

    def step() -> None:
        kept["cores"] = descend(kept["cores"], x)

    return step


#: What trains; each in a process of its own.
STEPS: dict[str, Callable[[], Step]] = {
    "numpy, stream": numpy_step,
    "torch, materialise": lambda: torch_step("materialise"),
    "torch, stream": lambda: torch_step("stream"),
    "torch, recompute": lambda: torch_step("recompute"),
    "jax": jax_step,
}


def held(name: str, steps: int, warm: int) -> list[tuple[int, float]]:
    """Return how many bytes this process holds after so many steps, at several places."""
    step, meter = STEPS[name](), ProcessMeter()
    found: list[tuple[int, float]] = []
    for done in range(1, steps + 1):
        step()
        if done >= warm and (done - warm) % max(1, (steps - warm) // LOOKS) == 0:
            found.append((done, float(meter.now())))
    return found


def growth(held: Sequence[tuple[int, float]]) -> float:
    """Return by how much memory grows with each step: the slope of the straight line through all looks."""
    steps, sizes = np.array(held, dtype=float).T
    return float(np.polyfit(steps - steps.mean(), sizes, 1)[0])


def soaked(argument: dict[str, Any]) -> list[tuple[int, float]]:
    """Return what `held` returns, for values that come as JSON."""
    return held(argument["name"], argument["steps"], argument["warm"])


def rows(steps: int) -> list[dict[str, Any]]:
    """Return a row of a table for each that trains."""
    made = []
    for name in STEPS:
        found = in_fresh_process("robustness.soak:soaked", {"name": name, "steps": steps, "warm": WARM}, threads=1)
        first, last = found[0], found[-1]
        made.append(
            {
                "training": name,
                "steps": steps,
                f"MiB after {WARM:,} steps": round(first[1] / 2**20, 2),
                "MiB at the end": round(last[1] / 2**20, 2),
                "growth in bytes a step": round(growth(found), 1),
            }
        )
    return made
