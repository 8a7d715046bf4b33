"""The few array functions that programs are made of, bound once for one array library.

All that a library must have goes through autoray, so that a program never knows which library its arrays come from.
Functions are bound ahead of a run (not dispatched call by call): it is faster, and compilers can trace the bound
functions.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import autoray

Array = Any  # an array of any library: there is no common type to name

#: Number types in which programs run; the 16-bit ones are computed in float32 and rounded at the end.
DTYPES = ("float32", "float64", "complex64", "complex128", "float16", "bfloat16")
SHORT_DTYPES = ("float16", "bfloat16")
DOUBLE_DTYPES = ("float64", "complex128")
ITEMSIZES = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16, "float16": 2, "bfloat16": 2}
#: Libraries that extras of this distribution install.
EXTRAS = ("cupy", "jax", "torch")
#: Libraries whose `reshape` either merges axes or splits them, but does not do both at once.
MERGING_OR_SPLITTING = ("dask",)
#: Libraries whose arrays can be written in place, and whose functions take `out`.
IN_PLACE = ("cupy", "numpy", "torch")


def _no_function(*arrays: Array, out: Array) -> Array:
    raise TypeError("the arrays of this library cannot be written in place")


@dataclass(frozen=True)
class Namespace:
    """The functions of one array library; `conj` is the identity when the arrays are real.

    Of the last ones, `fuse` makes one kernel of a function of arrays, number by number; `baddbmm` adds products of
    stacked matrices to an array; they are None where the library has no such function. The functions after these are
    for libraries whose arrays can be written; `tanh_adjoint` is x_bar conj(1 - y * y), written into `out`.
    """

    backend: str
    is_complex: bool
    matmul: Callable[..., Array]
    reshape: Callable[..., Array]
    permute: Callable[..., Array]
    concatenate: Callable[..., Array]
    zeros_like: Callable[..., Array]
    where: Callable[..., Array]
    conj: Callable[..., Array]
    sum: Callable[..., Array]
    exp: Callable[..., Array]
    expm1: Callable[..., Array]
    logaddexp: Callable[..., Array]
    tanh: Callable[..., Array]
    sin: Callable[..., Array]
    cos: Callable[..., Array]
    erf: Callable[..., Array]
    fuse: Callable[[Callable[..., Array]], Callable[..., Array]] | None = None
    baddbmm: Callable[..., Array] | None = None
    multiply: Callable[..., Array] = _no_function
    broadcast_to: Callable[..., Array] = _no_function
    tanh_adjoint: Callable[..., Array] = _no_function


def _unchanged(array: Array) -> Array:
    return array


def _untranslated(function: Callable[..., Array]) -> Callable[..., Array]:
    """Return a library's own function where autoray translates its keywords: compilers cannot trace the translation."""
    from_autoray = getattr(function, "__globals__", {}).get("__name__", "").startswith("autoray")
    own: Callable[..., Array] = getattr(function, "__wrapped__", function) if from_autoray else function
    return own


def _first_of(backend: str, *names: str) -> Callable[..., Array]:
    for name in names:
        try:
            function = autoray.get_lib_fn(backend, name)
        except ImportError:
            continue
        return _untranslated(function)
    raise ImportError(f"the array library {backend!r} has none of the functions {', '.join(names)}")


def _writing(backend: str, conj: Callable[..., Array]) -> dict[str, Any]:
    """Return the functions that a library is asked for only if its arrays can be written."""
    return {
        "baddbmm": _if_there(backend, "baddbmm"),
        "tanh_adjoint": _tanh_adjoint(backend, conj),
        "multiply": _first_of(backend, "multiply"),
        "broadcast_to": _first_of(backend, "broadcast_to"),
    }


def _tanh_adjoint(backend: str, conj: Callable[..., Array]) -> Callable[..., Array]:
    """Return the adjoint of tanh, of its own adjoint and its result: in one pass over memory where torch has it."""
    with suppress(ImportError, AttributeError):
        own = autoray.get_lib_fn(backend, "ops").aten.tanh_backward.grad_input
        return lambda bar, y, out: own(bar, y, grad_input=out)
    multiply, subtract = _first_of(backend, "multiply"), _first_of(backend, "subtract")

    def tanh_adjoint(bar: Array, y: Array, out: Array) -> Array:
        y = conj(y)
        return subtract(bar, multiply(multiply(bar, y, out=out), y, out=out), out=out)

    return tanh_adjoint


def _if_there(backend: str, name: str) -> Callable[..., Array] | None:
    """Return a function of the library's own module, if it has one.

    Not by way of autoray, where others register functions for every library: quimb a `fuse`, which merges legs.
    """
    try:
        function: Callable[..., Array] | None = getattr(importlib.import_module(backend), name, None)
    except ImportError:  # a library that is only registered with autoray
        return None
    return function


def _erf_through_numpy(backend: str) -> Callable[..., Array]:
    """The error function for an array library without one: computed by SciPy on NumPy's array of the same numbers."""
    asarray = _first_of(backend, "asarray")

    def erf(array: Array) -> Array:
        special = importlib.import_module("scipy.special")
        return asarray(special.erf(autoray.to_numpy(array)))

    return erf


#: Namespaces bound so far. A plain mapping, because compilers look through it (they would trace a cached function).
_BOUND: dict[tuple[str, bool], Namespace] = {}
#: Each library's own number types, by library and name; filled when the library is bound, plain for the same reason.
_OWN_DTYPES: dict[tuple[str, str], Any] = {}


def namespace(backend: str, is_complex: bool) -> Namespace:
    """Return the bound functions of an array library, named as autoray names it ("numpy", "torch", "jax" ...)."""
    bound = _BOUND.get((backend, is_complex))
    if bound is None:
        bound = _BOUND[backend, is_complex] = _bind(backend, is_complex)
    return bound


def _bind(backend: str, is_complex: bool) -> Namespace:
    _OWN_DTYPES.update({(backend, dtype): autoray.to_backend_dtype(dtype, like=backend) for dtype in DTYPES})
    try:
        erf = _first_of(backend, "erf", "special.erf", "scipy.special.erf")
    except ImportError:
        erf = _erf_through_numpy(backend)
    reshape = _first_of(backend, "reshape")
    conj = _first_of(backend, "conj") if is_complex else _unchanged
    same_name = ("matmul", "zeros_like", "where", "exp", "expm1", "logaddexp", "tanh", "sin", "cos")
    return Namespace(
        backend=backend,
        is_complex=is_complex,
        reshape=_in_two_passes(reshape) if backend in MERGING_OR_SPLITTING else reshape,
        permute=_first_of(backend, "permute_dims", "transpose"),
        concatenate=_positional_axis(_first_of(backend, "concat", "concatenate")),
        sum=_positional_axis(_first_of(backend, "sum")),
        conj=conj,
        erf=erf,
        fuse=_if_there(backend, "fuse"),
        **{name: _first_of(backend, name) for name in same_name},
        **(_writing(backend, conj) if backend in IN_PLACE else {}),
    )


def _in_two_passes(reshape: Callable[..., Array]) -> Callable[..., Array]:
    """Reshape by way of a vector: merging axes, then splitting one."""
    return lambda array, shape: reshape(reshape(array, (-1,)), shape)


def _positional_axis(function: Callable[..., Array]) -> Callable[[Any, int], Array]:
    """Take the axis by position and hand it on by name, which is the only way in the array API standard."""
    return lambda arrays, axis: function(arrays, axis=axis)


#: Libraries seen so far, by the type of their arrays; plain for the same reason as `_BOUND`.
_LIBRARIES: dict[type, str] = {}


def backend_of(array: Array) -> str:
    """Return autoray's name of the library that owns an array."""
    name = _LIBRARIES.get(type(array))
    if name is None:
        name = _LIBRARIES[type(array)] = str(autoray.infer_backend(array))
    return name


def dtype_name(array: Array) -> str:
    """Return the name of an array's number type, the same in every library: "float32", "complex128" ..."""
    dtype = array.dtype
    name = getattr(dtype, "name", None) or str(dtype)
    return str(name).rpartition(".")[2]


def namespace_of(arrays: Iterable[Array]) -> Namespace:
    """Return the bound functions for arrays that all come from one library."""
    first = next(iter(arrays))
    return namespace(backend_of(first), dtype_name(first).startswith("complex"))


def place(array: Array, backend: str, dtype: str, device: Any = None) -> Array:
    """Return a NumPy array as an array of another library, number type and device.

    Where `asarray` takes no device (CuPy), the device is a context in which arrays come to lie there.

    Raises:
        ImportError: if the library is not installed.
        ValueError: if the library does not have the number type or the device, or silently replaced the number type.
    """
    if backend == "numpy" and dtype == "bfloat16":
        importlib.import_module("ml_dtypes")  # which gives it to NumPy
    try:
        asarray = autoray.get_lib_fn(backend, "asarray")
        wanted = dtype if backend == "numpy" else autoray.to_backend_dtype(dtype, like=backend)
    except (ImportError, ModuleNotFoundError) as error:
        if backend in EXTRAS:
            raise ImportError(f'backend {backend!r} is not installed; try: pip install "adntn[{backend}]"') from error
        raise ImportError(
            f"backend {backend!r} is not installed, or is no array library{did_you_mean(backend, ('numpy', *EXTRAS))};"
            " adntn.backends() lists those known here"
        ) from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"dtype {dtype!r} is unknown to {backend}") from error
    entered = isinstance(device, AbstractContextManager) and not _takes_device(asarray)
    options = {} if device is None or entered else {"device": device}
    try:
        with device if entered else nullcontext():
            placed = asarray(array, dtype=wanted, **options)
    except (TypeError, ValueError) as error:
        if device is None:
            raise ValueError(f"dtype {dtype!r} is unknown to {backend}: {error}") from error
        place(array, backend, dtype)  # raises, if it is the number type that does not fit
        name = repr(device) if isinstance(device, str) else "name"
        raise ValueError(
            f"device must come from adntn.backend({backend!r}).device({name}) and have {dtype!r} there,"
            f" got {device!r}: {error}"
        ) from error
    check_dtype(placed, dtype)
    return placed


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a question for an error that names a wrong name, or nothing where none of those known is like it.

    >>> did_you_mean("pytorch", ["numpy", "torch"]), did_you_mean("x", ["numpy"])
    (" (did you mean 'torch'?)", '')
    """
    return "".join(f" (did you mean {one!r}?)" for one in difflib.get_close_matches(name, known, n=1))


def check_dtype(array: Array, dtype: str) -> None:
    """Check that an array has the number type that was asked for: libraries may replace it without a word.

    Raises:
        ValueError: if it has not.
    """
    if dtype_name(array) != dtype:
        backend = backend_of(array)
        raise ValueError(
            f"dtype {dtype!r} was asked of {backend}, which gave {dtype_name(array)!r}"
            + ("; enable it first: jax.config.update('jax_enable_x64', True)" if backend == "jax" else "")
        )


def _takes_device(function: Callable[..., Array]) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a built-in function that does not tell
        return True
    return "device" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def as_dtype(array: Array, dtype: str) -> Array:
    """Return the array with another number type, by name; differentiable where the library is."""
    if dtype_name(array) == dtype:
        return array
    backend = backend_of(array)
    namespace(backend, is_complex=False)
    own = _OWN_DTYPES[backend, dtype]
    if backend == "torch":  # asked first: torch.compile before torch 2.10 finds no `to` in parameters
        return array.to(own)
    if hasattr(array, "astype"):
        return array.astype(own)
    return array.__array_namespace__().astype(array, own)  # the array API standard has a function, not a method


def can_be_written(array: Array) -> bool:
    """Return whether an array's numbers can be written in place; not while torch compiles or transforms functions."""
    backend = backend_of(array)
    if backend != "torch":
        return backend in IN_PLACE
    if autoray.get_lib_fn(backend, "compiler.is_compiling")():
        return False
    try:
        array.untyped_storage()
    except NotImplementedError:  # what stands for an array inside of torch.func has no numbers of its own
        return False
    return True


def is_differentiated(array: Array) -> bool:
    """Return whether the array's library records what is done with it, as torch does."""
    if not getattr(array, "requires_grad", False):
        return False
    return bool(autoray.get_lib_fn(backend_of(array), "is_grad_enabled")())


def detached(array: Array) -> Array:
    """Return the same numbers, with which nothing that is done is recorded."""
    return array.detach() if hasattr(array, "detach") else array


def clear(array: Array) -> None:
    """Write zeros into an array."""
    if hasattr(array, "zero_"):
        array.zero_()
    else:
        array.fill(0)


def zeros_in_rows(like: Array) -> Array:
    """Return zeros of an array's shape that lie in memory row by row; torch's `zeros_like` keeps another order."""
    if not can_be_written(like):
        return namespace_of([like]).zeros_like(like)
    made = empty(like.shape, like)
    clear(made)
    return made


def is_contiguous(array: Array) -> bool:
    """Return whether an array lies in memory row by row, without gaps."""
    return bool(array.is_contiguous() if hasattr(array, "is_contiguous") else array.flags.c_contiguous)


def empty(shape: Sequence[int], like: Array) -> Array:
    """Return a new array, of any numbers, with the library, number type and device of another."""
    if hasattr(like, "new_empty"):
        return like.new_empty(shape)
    return autoray.do("empty", shape, dtype=like.dtype, like=like)


def flatten(arrays: Mapping[str, Array]) -> Array:
    """Return all elements of arrays of one library as one vector, in the order of the mapping."""
    functions = namespace_of(arrays.values())
    return functions.concatenate([functions.reshape(array, (-1,)) for array in arrays.values()], 0)


def unflatten(vector: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Return the parts of a vector as arrays of these shapes: the inverse of `flatten`."""
    functions = namespace_of([vector])
    arrays, start = {}, 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        arrays[name] = functions.reshape(vector[start:stop], shape)
        start = stop
    return arrays


def check_alike(
    arrays: Mapping[str, Array], what: str, properties: Sequence[str] = ("library", "dtype", "device")
) -> None:
    """Check that arrays share these properties: their library, number type and device.

    Raises:
        TypeError: naming the first two arrays that differ.
    """
    for question, answer in (("library", backend_of), ("dtype", dtype_name), ("device", _device)):
        if question not in properties:
            continue
        first, expected = "", None
        for name, array in arrays.items():
            own = answer(array)
            if expected is None:
                first, expected = name, own
            elif own is not None and own != expected:
                raise TypeError(f"{what} must share one {question}: {first!r} has {expected!r}, {name!r} has {own!r}")


def _device(array: Array) -> str | None:
    """Return the one device of an array; None where there is none to name.

    While JAX traces, arrays have no device; spread over several devices, they have JAX's own rules.
    """
    device = getattr(array, "device", None)
    return None if device is None or hasattr(device, "device_set") else str(device)
