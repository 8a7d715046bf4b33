"""Who is in an installation: our generator on each backend, our layers with each schedule, and dense layers."""

from __future__ import annotations

from adntn.benchmarking.contender import Contender, Task

SCHEDULES = ("auto", "materialise", "recompute", "stream", "contract")
#: Array libraries with a weight of their own kind.
LIBRARIES = ("numpy", "torch", "jax")
#: Those whose layers are none of torch's: what is measured there is the generator applied to x.
OTHERS = ("numpy", "jax")
#: Those whose arrays can be written into.
MUTABLE = ("numpy", "torch")

WEIGHTS: tuple[Task, ...] = ("weight", "weight into a buffer", "gradients")
LAYERS: tuple[Task, ...] = ("forward", "backward", "step")


def generator_on(library: str, differentiation: str = "adjoint") -> Contender:
    """Return our generator on an array library.

    >>> generator_on("numpy").name
    'adntn on numpy'
    """
    path = () if differentiation == "adjoint" else (("differentiation", differentiation),)
    name = f"adntn on {library}" + ("" if differentiation == "adjoint" else ", its own autograd")
    tasks: tuple[Task, ...] = ("gradients",) if path else WEIGHTS
    return Contender(name, "adntn.benchmarking.arrays:generated", tasks, (("backend", library), *path))


def applied_on(library: str, schedule: str) -> Contender:
    """Return our generator applied to x on an array library with a schedule.

    >>> applied_on("jax", "stream").tasks
    ('forward', 'backward')
    """
    return Contender(
        f"adntn on {library}, {schedule}",
        "adntn.benchmarking.arrays:applied",
        ("forward", "backward") if library == "jax" else ("forward",),
        (("backend", library), ("schedule", schedule)),
    )


def product_on(library: str) -> Contender:
    """Return the dense product with x on an array library."""
    return Contender(
        f"dense product on {library}", "adntn.benchmarking.arrays:product", ("forward",), (("backend", library),)
    )


def copy_on(library: str) -> Contender:
    """Return one copy between buffers of the weight's size."""
    return Contender(
        f"copy on {library}", "adntn.benchmarking.arrays:copied", ("weight into a buffer",), (("backend", library),)
    )


def tanh_on(library: str) -> Contender:
    """Return one tanh between buffers of the weight's size."""
    return Contender(
        f"tanh on {library}", "adntn.benchmarking.arrays:tanh", ("weight into a buffer",), (("backend", library),)
    )


def layer(schedule: str, *, memory_limit: int | None = None, frozen: bool = False) -> Contender:
    """Return our layer of torch with a schedule.

    >>> layer("stream").name, layer("auto", frozen=True).tasks
    ('adntn, stream', ('forward',))

    Args:
        schedule: "auto" or the name of one.
        memory_limit: in bytes; None for no limit.
        frozen: whether the weight is generated once, before.
    """
    limit = () if memory_limit is None else (("memory_limit", memory_limit),)
    freeze = (("frozen", True),) if frozen else ()
    name = "adntn, frozen" if frozen else f"adntn, {schedule}"
    tasks: tuple[Task, ...] = ("forward",) if frozen else LAYERS
    return Contender(name, "adntn_torch.benchmark:generated", tasks, (("schedule", schedule), *limit, *freeze))


DENSE = Contender("dense", "adntn_torch.benchmark:dense", LAYERS)
DENSE_FUSED = Contender("dense, fused Adam", "adntn_torch.benchmark:dense", ("step",), (("fused", True),))
#: Our layer as it is made without a word about schedules.
LAYER = Contender("adntn, as it comes", "adntn_torch.benchmark:generated", LAYERS)

#: The first of each task is what the others are compared with.
CONTENDERS: tuple[Contender, ...] = (
    DENSE,
    DENSE_FUSED,
    *(copy_on(library) for library in MUTABLE),
    *(tanh_on(library) for library in MUTABLE),
    *(generator_on(library) for library in LIBRARIES),
    *(generator_on(library, "native") for library in ("torch", "jax")),
    LAYER,
    *(layer(schedule) for schedule in SCHEDULES),
    layer("auto", frozen=True),
    *(product_on(library) for library in OTHERS),
    *(applied_on(library, schedule) for library in OTHERS for schedule in SCHEDULES),
)
