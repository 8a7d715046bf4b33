"""The class a user meets first: a network with everything one can do with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from adntn.applying import applied, applied_vjp, task_of, tiled_vjp
from adntn.arrays import (
    DTYPES,
    ITEMSIZES,
    SHORT_DTYPES,
    Array,
    as_dtype,
    backend_of,
    can_be_written,
    check_alike,
    detached,
    dtype_name,
    is_contiguous,
    namespace_of,
    place,
)
from adntn.gathering import rows, rows_vjp
from adntn.initialise import check_scale, initial_cores
from adntn.machine import machine, machine_of
from adntn.network import SCALE, Network
from adntn.parts import Parts, parts_of
from adntn.program.adjoint import Adjoint, adjoint
from adntn.program.forecast import best_plan
from adntn.program.ir import Program
from adntn.program.lower import choose_paths, lower
from adntn.program.path import Paths
from adntn.program.run import run
from adntn.program.schedule import checked_schedule, choose
from adntn.program.tangent import Tangent, tangent
from adntn.program.task import ScheduleName
from adntn.report import Report, report
from adntn.second_order import weight_and_tangent
from adntn.shapes import Assembly
from adntn.tiling import Tiling, tiling

if TYPE_CHECKING:
    from adntn.drawing import Drawing

#: Weights of so many numbers are differentiated tile by tile where arrays can be written.
TILED = 2**16


@dataclass(frozen=True)
class Generator:
    """Generates one weight (or a batch of them) from small cores.

    >>> import adntn
    >>> generator = adntn.TTN((4096, 4096), bond=2, activation="tanh")
    >>> generator.parameters, round(generator.ratio)
    (177, 94787)
    >>> cores = generator.init(seed=0)
    >>> generator.weight(cores).shape
    (4096, 4096)

    Cores are a plain mapping from names to arrays of one library; everything that comes back is of that library.

    Attributes:
        network: what is generated and how; immutable, so that a generator can be a static argument of a compiler.
        paths: for each level, the contraction path chosen with `with_path`, or None; () if none was chosen.
    """

    network: Network
    paths: Paths = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is generated; the batch axis, if there is one, comes first."""
        lead = () if self.network.batch is None else (self.network.batch,)
        return lead + self.network.layout.shape

    @property
    def parameters(self) -> int:
        """How many numbers are stored: all cores and the scale."""
        return self.network.parameters

    @property
    def ratio(self) -> float:
        """How many weights each stored number makes."""
        return math.prod(self.shape) / self.parameters

    @property
    def core_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every core, by name."""
        return dict(self.network.core_shapes)

    @cached_property
    def program(self) -> Program:
        """The contraction program; `print` it to read the formulas."""
        return lower(self.network, self.paths)

    @cached_property
    def adjoint(self) -> Adjoint:
        """The program's adjoint: forward with residuals, and backward."""
        return adjoint(self.program)

    @cached_property
    def tangent(self) -> Tangent:
        """The program with its derivative along one direction in all cores."""
        return tangent(self.program)

    @cached_property
    def assembly(self) -> Assembly:
        """The way from the program's result to the weight."""
        legs = self.program.outputs[0].legs[0 if self.network.batch is None else 1 :]
        axes = [self.network.levels[-1].output.index(leg) for leg in legs]
        return self.network.layout.assembly(axes, self.network.batch)

    def with_path(self, optimize: Any, level: int | None = None) -> Generator:
        """Return the generator with its blocks contracted along a path of one's own: the same numbers, another order.

        >>> import adntn, opt_einsum
        >>> generator = adntn.TensorTrain((64, 64), bond=4)
        >>> generator.with_path("dp").program == generator.with_path(opt_einsum.DynamicProgramming()).program
        True
        >>> adntn.TTN((4, 4), leg=2).with_path([(1, 2), (0, 1)], level=1).paths
        (None, ((1, 2), (0, 1)))

        The search runs once, here; what is kept is its result.

        Args:
            optimize: what opt_einsum takes: the name of an algorithm, an `opt_einsum.paths.PathOptimizer`, an optimiser
                of cotengra, a path, or a `PathInfo` or `ContractionTree` of theirs. The tensors of a level are the
                state before it and then its cores, in order.
            level: the level to be contracted so; by default every level. An optimiser that serves one contraction only,
                such as cotengra's HyperOptimizer, needs it where several levels are to be searched.

        Raises:
            TypeError, ValueError: if `optimize` is none of these, or does not contract a level's tensors pair by pair.
        """
        return Generator(self.network, choose_paths(self.network, optimize, level, self.paths))

    def init(
        self,
        seed: int = 0,
        *,
        backend: str = "numpy",
        dtype: str = "float32",
        device: Any = None,
        std: float | None = None,
    ) -> dict[str, Array]:
        """Return cores to start from: calibrated so that the weight has the wanted standard deviation.

        Args:
            seed: the same seed gives the same cores on every backend.
            backend: the array library, as autoray names it: "numpy", "torch", "jax", "cupy" ...
            dtype: "float32", "float64", "complex64", "complex128", "float16" or "bfloat16".
            device: passed on to the library.
            std: the weight's standard deviation; by default 1 / sqrt(fan in), which keeps a layer's variance.

        Raises:
            ImportError: if the library is not installed.
            ValueError: if the number type or the deviation is not possible, or an activation is not complex.
        """
        if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        deviation = 1.0 / math.sqrt(self.fan_in) if std is None else float(std)
        if not (math.isfinite(deviation) and deviation > 0):
            raise ValueError(f"std must be a positive number, got {std!r}")
        is_complex = dtype.startswith("complex")
        if is_complex:
            self._check_complex()
        drawn = initial_cores(self.network, seed.__index__(), deviation, complex_cores=is_complex)
        check_scale(drawn[SCALE], dtype, deviation)
        return {name: place(core, backend, dtype, device) for name, core in drawn.items()}

    @property
    def fan_in(self) -> int:
        """How many inputs each output of the layer sums over: all dimensions but the first."""
        return math.prod(self.network.layout.shape[1:])

    def weight(self, cores: Mapping[str, Array], out: Array | None = None) -> Array:
        """Return the weight, differentiable by the library that owns the cores if it has automatic differentiation.

        >>> import adntn, numpy
        >>> generator = adntn.TTN((64, 64), bond=2)
        >>> held = numpy.empty((64, 64), "float32")
        >>> generator.weight(generator.init(), out=held) is held
        True

        Args:
            cores: arrays by name, of one library.
            out: a contiguous array of the weight's shape to write into, tile by tile: no fresh memory, and nothing
                that could be differentiated. For NumPy, CuPy and torch, whose arrays can be written.

        Raises:
            KeyError, ValueError, TypeError: if cores are missing, unknown, of a wrong shape, or of different libraries;
                or if `out` does not fit.
        """
        self.check(cores)
        if out is None:
            return self.weight_of(cores)
        self._check_out(out, cores)
        _, prepared = self.prepared({name: detached(core) for name, core in cores.items()})
        self.tiling(prepared).write(prepared, out)
        return out

    def tiling(self, cores: Mapping[str, Array]) -> Tiling:
        """Return how the weight is made of tiles, chosen for the machine and the library that owns the cores."""
        scale = cores[SCALE]
        plan = best_plan(self.network, self.paths, machine_of(scale), ITEMSIZES[dtype_name(scale)])
        return tiling(self.network, self.paths, plan)

    def _check_out(self, out: Array, cores: Mapping[str, Array]) -> None:
        if not can_be_written(cores[SCALE]):
            raise TypeError(f"out needs arrays that can be written, got cores of {backend_of(cores[SCALE])}")
        if not hasattr(out, "shape") or tuple(out.shape) != self.shape:
            raise ValueError(f"out must have the weight's shape {self.shape}, got {getattr(out, 'shape', out)!r}")
        check_alike({"out": out, "the cores": cores[SCALE]}, "out and the cores")
        if not is_contiguous(out):
            raise ValueError("out must be contiguous (row-major)")

    def weight_of(self, cores: Mapping[str, Array]) -> Array:
        """Return the weight of cores that have been checked."""
        dtype, cores = self.prepared(cores)
        functions = namespace_of(cores.values())
        (state,) = run(self.program, cores, functions)
        return as_dtype(self.assembly.assemble(state, functions), dtype)

    def apply(
        self,
        cores: Mapping[str, Array],
        x: Array,
        *,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
    ) -> Array:
        """Return x @ W.T, batched over the leading axes of `x`.

        It is differentiable where the library has automatic differentiation; `apply_vjp` differentiates everywhere.

        Args:
            cores: the cores of a generator of shape (out, in), or (G, out, in) with a batch.
            x: shape (..., in); with a batch, (G, ..., in).
            schedule: "materialise", "recompute" (here the same), "stream" or "contract" (see `program.schedule`);
                "auto" takes the fastest that is predicted within the limit. Where a library is to differentiate, only
                the weight as a whole, or contracting, will do.
            memory_limit: bytes beyond cores, x and the result.

        Raises:
            ValueError: if the weight is no matrix, `x` does not fit, the schedule does not suit the network or the
                library, or nothing fits into the limit.
        """
        return applied(self, cores, x, schedule, memory_limit)

    def apply_vjp(
        self,
        cores: Mapping[str, Array],
        x: Array,
        *,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
    ) -> tuple[Array, Callable[[Array], tuple[Array, dict[str, Array]]]]:
        """Return x @ W.T and its pullback, which takes dL/dy to dL/dx and dL/d(core) for every core.

        >>> import adntn, numpy
        >>> generator = adntn.TTN((64, 32), bond=2)
        >>> y, pullback = generator.apply_vjp(generator.init(), numpy.ones((5, 32), "float32"), schedule="stream")
        >>> x_bar, gradients = pullback(y)
        >>> x_bar.shape, list(gradients) == list(generator.core_shapes)
        ((5, 32), True)

        The library's own adjoint, on every array library. With the schedule "stream" neither W nor dL/dW ever exists.

        Args, Raises: as for `apply`.
        """
        return applied_vjp(self, cores, x, schedule, memory_limit)

    def rows(self, cores: Mapping[str, Array], indices: Array) -> Array:
        """Return some rows of the weight, without making the others; differentiable where the library is.

        >>> import adntn, numpy
        >>> table = adntn.TTN((30522, 384), bond=4)
        >>> table.rows(table.init(), numpy.array([[101, 7592], [2088, 102]])).shape
        (2, 2, 384)

        What it holds grows with the number of tokens and with the state before the last activation, not with the rows
        of the weight; only a network whose states are as large as the weight has to make them.

        Args:
            cores: arrays by name, of one library.
            indices: integers of the same library, of any shape: numbers of rows. The result has this shape, then that
                of a row; behind the batch axis, if there is one.

        Raises:
            IndexError: if there is no such row. Under `jax.jit`, where indices have no values yet, there is no error.
            KeyError, ValueError, TypeError: if the cores are not this generator's, or the indices no integers.
        """
        return rows(self, cores, indices)

    def rows_vjp(self, cores: Mapping[str, Array], indices: Array) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        """Return some rows of the weight and their pullback, which takes dL/d(rows) to dL/d(core) for every core.

        The library's own adjoint, on every array library; of dL/dW, too, nothing but these rows exists.

        Args, Raises: as for `rows`.
        """
        return rows_vjp(self, cores, indices)

    def parts(self, count: int, dimension: int = 0) -> Parts:
        """Return the weight in equal parts, each generated for itself: by one generator, from cores cut differently.

        >>> import adntn
        >>> adntn.TTN((4096, 1024), bond=4).parts(4, dimension=1).generator.shape
        (4096, 256)

        Args:
            count: the number of parts; the dimension's first legs must divide into so many.
            dimension: which is divided, without the batch axis: 0 for rows, 1 for columns.

        Raises:
            ValueError: if there is no such dimension, or it does not divide; the error names what would.
        """
        return parts_of(self, count, dimension)

    def vjp(self, cores: Mapping[str, Array]) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        """Return the weight and its pullback, which takes dL/dW to dL/d(core) for every core.

        This is the library's own adjoint: it works on every array library. Gradients of complex cores are with respect
        to the conjugate (torch's convention; `jax.grad` gives the conjugate of that).
        """
        self.check(cores)
        if math.prod(self.shape) >= TILED and can_be_written(cores[SCALE]):
            return tiled_vjp(self, cores, self.tiling(self.prepared(cores)[1]))
        weight, residuals = self.forward(cores)
        return weight, lambda weight_bar: self.pullback(residuals, cores, weight_bar)

    def jvp(self, cores: Mapping[str, Array], tangents: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return the weight and its derivative along a direction in the cores.

        >>> import adntn, numpy
        >>> generator = adntn.TTN((16, 16), bond=2)
        >>> cores, direction = generator.init(0, dtype="float64"), generator.init(1, dtype="float64")
        >>> weight, derivative = generator.jvp(cores, direction)
        >>> ahead = {name: core + 1e-6 * direction[name] for name, core in cores.items()}
        >>> bool(numpy.allclose(generator.weight(ahead) - weight, 1e-6 * derivative, atol=1e-9))
        True

        The library's own forward mode, the adjoint of `vjp`'s pullback: <jvp, W_bar> = <tangents, pullback(W_bar)>. It
        works on every array library.

        Args:
            cores: arrays by name, of one library.
            tangents: the direction: arrays of the same names, shapes, library and number type.

        Raises:
            KeyError, ValueError, TypeError: if the cores are not this generator's, or the tangents do not fit them.
        """
        return weight_and_tangent(self, cores, tangents)

    def forward(self, cores: Mapping[str, Array]) -> tuple[Array, tuple[Array, ...]]:
        """Return the weight and the intermediate results that `pullback` needs: `vjp` in two halves, for frameworks."""
        self.check(cores)
        dtype, cores = self.prepared(cores)
        functions = namespace_of(cores.values())
        state, *residuals = run(self.adjoint.forward, cores, functions)
        return as_dtype(self.assembly.assemble(state, functions), dtype), tuple(residuals)

    def pullback(self, residuals: tuple[Array, ...], cores: Mapping[str, Array], weight_bar: Array) -> dict[str, Array]:
        """Return dL/d(core) for every core, given `forward`'s residuals and dL/dW.

        Raises:
            ValueError, TypeError: if `weight_bar` has not the weight's shape, or another library or device.
        """
        self.check(cores)
        self.check_weight_bar(weight_bar, cores)
        dtype, cores = self.prepared(cores)
        functions = namespace_of(cores.values())
        computed = dtype_name(next(iter(cores.values())))
        seed = self.assembly.disassemble(as_dtype(weight_bar, computed), functions)
        given = {tensor.name: array for tensor, array in zip(self.adjoint.residuals, residuals, strict=True)}
        gradients = run(self.adjoint.backward, {**cores, **given, self.adjoint.seeds[0].name: seed}, functions)
        shapes = self.network.core_shapes
        return {
            tensor.name: as_dtype(functions.reshape(gradient, shapes[tensor.name]), dtype)
            for tensor, gradient in zip(self.program.inputs, gradients, strict=True)
        }

    def report(
        self,
        itemsize: int = 4,
        *,
        rows: int | None = None,
        training: bool = True,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
        backend: str = "numpy",
    ) -> Report:
        """Return parameters, ratio, costs, padding and rank bound; with `rows` also the schedule of a layer.

        >>> import adntn
        >>> report = adntn.TTN((1024, 1024), bond=2).report(rows=32, schedule="stream")
        >>> report.choice.taken.schedule, report.choice.reason
        ('stream', 'as asked for')

        Args:
            itemsize: bytes of a number.
            rows: how many vectors the weight is multiplied with. Layers choose for the next power of two, and so does
                this: as `apply` does, and the layers of torch, of matrices of 65,536 numbers and more.
            training: whether gradients are wanted.
            schedule: as for `apply`.
            memory_limit: as for `apply`.
            backend: the array library whose calibration is used.

        Raises:
            ValueError, TypeError: as `apply`; or if `rows` is no positive integer.
            ImportError: if there is no such backend.
        """
        choice = None
        if rows is not None:
            if isinstance(rows, bool) or not hasattr(rows, "__index__") or rows < 1:
                raise ValueError(f"rows must be a positive integer, or None, got {rows!r}")
            dtype = "bfloat16" if itemsize < 4 else "float64" if itemsize > 4 else "float32"
            task = replace(task_of(self, dtype, rows.__index__(), training=training), itemsize=itemsize)
            choice = choose(task, machine(backend, dtype), checked_schedule(schedule, memory_limit), memory_limit)
        return report(self.network, self.program, self.adjoint, itemsize, choice)

    def draw(
        self, what: Literal["network", "costs", "weight"] = "network", cores: Mapping[str, Array] | None = None
    ) -> Drawing:
        """Return a drawing, which notebooks show and `save` writes to a file.

        >>> import adntn
        >>> adntn.TTN((16, 16), bond=2).draw()
        <network: TTN: 16 x 16 from 53 parameters>

        Args:
            what: the "network" level by level, the "costs" of each step, or the "weight" as an image. `adntn.drawing`
                has a function for each of them, with further options, and one for the curves of a training.
            cores: of the weight.

        Raises:
            ValueError: if there is no such drawing, or that of the weight lacks cores; or as `check`.
            ImportError: from the methods of the drawing, if matplotlib is not installed.
        """
        from adntn import drawing  # noqa: PLC0415  (drawings are of generators)

        if what == "weight":
            if cores is None:
                raise ValueError('draw("weight") needs cores, such as those of init()')
            return drawing.weight(self, cores)
        if what == "network":
            return drawing.network(self)
        if what == "costs":
            return drawing.costs(self)
        raise ValueError(f'what must be "network", "costs" or "weight", got {what!r}')

    def check(self, cores: Mapping[str, Array]) -> None:
        """Check that `cores` are those of this generator.

        Raises:
            KeyError: if a core is missing or unknown.
            ValueError: if a core has the wrong shape.
            TypeError: if the cores differ in library, number type or device, or are no floating-point arrays.
        """
        shapes = self.network.core_shapes
        if not isinstance(cores, Mapping):
            remedy = "; take dict(...) of it" if hasattr(cores, "keys") else ""  # torch's ParameterDict is no mapping
            raise TypeError(f"cores must be a mapping from names to arrays, got {type(cores).__name__}{remedy}")
        if missing := [name for name in shapes if name not in cores]:
            raise KeyError(f"cores lack {missing[0]!r} of shape {shapes[missing[0]]} ({len(missing)} missing in all)")
        if unknown := [name for name in cores if name not in shapes]:
            raise KeyError(f"cores have {unknown[0]!r}, which is none of this generator's: {', '.join(shapes)}")
        for name, shape in shapes.items():
            if not hasattr(cores[name], "shape") or not hasattr(cores[name], "dtype"):
                raise TypeError(f"core {name!r} must be an array of shape {shape}, got {type(cores[name]).__name__}")
            if tuple(cores[name].shape) != shape:
                raise ValueError(f"core {name!r} must have the shape {shape}, got {tuple(cores[name].shape)}")
        check_alike(cores, "cores")
        dtype = dtype_name(cores[SCALE])
        if dtype not in DTYPES:
            raise TypeError(f"cores must have one of the dtypes {', '.join(DTYPES)}, got {dtype}")
        if dtype.startswith("complex"):
            self._check_complex()

    def check_weight_bar(self, weight_bar: Array, cores: Mapping[str, Array]) -> None:
        """Check that dL/dW fits the weight of these cores.

        Raises:
            ValueError: if it has not the weight's shape.
            TypeError: if it differs from the cores in library, number type or device.
        """
        if not hasattr(weight_bar, "shape"):
            raise TypeError(f"W_bar must be an array of shape {self.shape}, got {type(weight_bar).__name__}")
        if tuple(weight_bar.shape) != self.shape:
            raise ValueError(f"W_bar must have the weight's shape {self.shape}, got {tuple(weight_bar.shape)}")
        check_alike({"W_bar": weight_bar, "the cores": next(iter(cores.values()))}, "W_bar and the cores")

    def _check_complex(self) -> None:
        for level in self.network.levels:
            if not level.activation.holomorphic:
                raise ValueError(f"activation {level.activation} is not defined for complex cores")

    def prepared(self, cores: Mapping[str, Array]) -> tuple[str, Mapping[str, Array]]:
        """Return the cores' number type and the cores in the number type to compute in."""
        dtype = dtype_name(cores[SCALE])
        if dtype not in SHORT_DTYPES:
            return dtype, cores
        return dtype, {name: as_dtype(core, "float32") for name, core in cores.items()}

    def __repr__(self) -> str:
        return f"<{str(self.network).partition(chr(10))[0]}>"  # a network written out would fill pages

    def __str__(self) -> str:
        return f"{self.network}\n  {self.ratio:,.0f} weights for each parameter"
