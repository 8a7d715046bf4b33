"""How a layer computes: which schedule a name means, and what goes with it."""

from __future__ import annotations

from typing import Literal, get_args

from adntn.backends import Differentiation
from adntn_jax.differentiate import path_of
from adntn_jax.engines import JAX

#: "materialise" makes the weight and keeps it; "recompute" makes it again in the backward pass; "stream" has no more of
#: it than a tile at any time; "contract" takes x into the cores; "auto" leaves the choice to the library.
Schedule = Literal["auto", "materialise", "recompute", "stream", "contract"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)


def checked_options(
    schedule: str, memory_limit: int | None, differentiation: str | None, engine: str
) -> Differentiation:
    """Return who differentiates a layer with these options.

    Raises:
        ValueError: if there is no such schedule, path or memory, or they do not go together.
        NotImplementedError: for "contract".
        ImportError: if the engine is not installed, or does not work here.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if memory_limit is not None and (
        isinstance(memory_limit, bool) or not hasattr(memory_limit, "__index__") or memory_limit <= 0
    ):
        raise ValueError(f"memory_limit must be a positive number of bytes, or None, got {memory_limit!r}")
    path = path_of(differentiation, engine)
    if schedule in {"auto", "materialise"}:
        return path
    if engine != JAX:
        raise ValueError(f'schedule must be "materialise" or "auto" with the engine {engine!r}, got {schedule!r}')
    if differentiation == "native":
        raise ValueError(f'schedule must be "materialise" or "auto" with differentiation="native", got {schedule!r}')
    if schedule == "contract":
        raise NotImplementedError('schedule "contract" is not there for JAX')
    return "adjoint"


def chosen(schedule: str) -> str:
    """Return the schedule to compute by."""
    return "materialise" if schedule == "auto" else schedule
