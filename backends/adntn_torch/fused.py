"""A generated weight times x in one kernel: the weight and its adjoint never exist in memory.

The last linear block of a tree-like generator multiplies out into two factors, whose product has the weight's legs:

    W[(rh rl), (ch cl)] = f( sum_s front[rh, ch, s] back[rl, s, cl] )          f: the last activation

`fused_linear` reads the factors, makes a tile of W in registers, multiplies it with x and drops it. The backward pass
makes each tile again. It is two kernels (`fused_kernels`), each used twice: x_bar is the product of y_bar with the
transposed weight, whose factors are the transposed factors; and with high and low legs exchanged the front factor is
the back one, so that one kernel gives the adjoints of both. What is held besides: transposed factors and inputs, and
sums over parts of the columns where few rows would leave processors idle, never more than 1/8 of W.

**Prediction** (nothing here is measured). A dense product at a small batch B is bound by reading W, 2 bytes per weight
in bf16: 0.6 ps on an H100 with 3.35 TB/s. The fused forward pass is bound by the largest of these, per weight:

    memory        2 K / (RH CH) + 2 K / (RL CL) bytes of factors: next to nothing
    L2 cache      2 K / (block_m CH) + 2 K / block_n + 2 B / block_m bytes of back, front and x, at 5.5 TB/s;
                  block_m is RH, but from 16 to 64, block_n up to 128
    products      2 K + 2 max(B, 16) operations, twice that for RH = 8, which fills half of each tile; 600 Tflop/s
    f             tanh in 16 bits: one special-function instruction, 0.28 ps
    instructions  as compiled for Hopper, 3 to 6 with tanh (29 per ps: 0.2 ps), 36 with gelu, 85 with sin

For 4096 x 4096 in bf16 with tanh, K = RH = CH = 16: 0.3 ps at B = 1, about twice as fast as dense if launches are
hidden (by a CUDA graph: dense takes 10 us in all); 0.4 ps at B = 16, where x comes from L2; 1.5 ps at B = 64, behind
dense. With K = RH = CH = 64 front and x take 0.45 ps at B = 16 and 0.73 at B = 64: level with dense. gelu and sin are
bound by instructions, 1.3 and 2.9 ps: slower than dense, worth it for memory alone. So are products of float32 without
tensor cores: 78 to 108 instructions, about 3 ps against dense's 1.2. Backward, three passes (x_bar as above, the
factors' adjoints with 8 to 20 instructions each) stand against dense's two and the optimiser's over W. W is made again
for every 64 samples: for large batches schedule="stream" or a held weight is better.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from math import ceil
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from adntn.activations import ACTIVATIONS, Activation, activation_of
from adntn.arrays import dtype_name

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ELSEWHERE = "schedule='stream' does the same"
#: Warps that keep a processor busy, and the processors that the interpreter pretends to have.
BUSY, INTERPRETED_PROCESSORS = 16, 8


def fused_linear(
    x: Tensor,
    front: Tensor,
    back: Tensor,
    activation: str | Activation = "identity",
    bias: Tensor | None = None,
    *,
    out_features: int | None = None,
    in_features: int | None = None,
) -> Tensor:
    """Return x @ W.T + bias for the weight that two factors generate, without ever holding W or dL/dW.

    W[rh * RL + rl, ch * CL + cl] is f(sum_s front[rh, ch, s] back[rl, s, cl]); its rows and columns beyond
    `out_features` and `in_features` are cropped. Sums and f are computed in float32; float32 is multiplied in full
    precision unless torch allows TF32. The first call of a size times a few configurations: make it before capturing a
    CUDA graph. Differentiable once, in x, front, back and bias, with the same numbers in every run.

    Args:
        x: of shape (..., in_features), float32, bfloat16 or float16, on a CUDA device.
        front: of shape (RH, CH, K), of the type and device of x.
        back: of shape (RL, K, CL), likewise.
        activation: a name from `adntn.ACTIVATIONS`, or that activation itself.
        bias: of shape (out_features,), likewise.
        out_features: rows of W that count, by default all RH * RL.
        in_features: columns of W that count, by default all CH * CL.

    Raises:
        ImportError: if Triton is not installed.
        ValueError: if x is not on a CUDA device, the activation is not one of the library's, or shapes, number types
            or devices do not fit.
    """
    name = _name(activation)
    out_features, in_features = _features(front, back, out_features, in_features)
    _check(x, front, back, bias, out_features, in_features)
    samples = x.reshape(-1, in_features)
    y: Tensor = _FusedLinear.apply(samples, front, back, bias, name, out_features)  # type: ignore[no-untyped-call]
    return y.reshape(*x.shape[:-1], out_features)


class _FusedLinear(torch.autograd.Function):
    """(x, front, back, bias, activation, out_features) -> y."""

    @staticmethod
    def forward(
        x: Tensor, front: Tensor, back: Tensor, bias: Tensor | None, activation: str, out_features: int
    ) -> Tensor:
        y: Tensor = _multiply(x, front, back, bias, activation, out_features)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, front, back, _, ctx.activation, _ = inputs
        ctx.save_for_backward(x, front, back)

    @staticmethod
    def backward(ctx: Any, y_bar: Tensor) -> tuple[Tensor | None, ...]:
        given = y_bar, *ctx.saved_tensors, ctx.activation, tuple(ctx.needs_input_grad[:4])
        if torch.compiler.is_dynamo_compiling():  # it refuses second derivatives by itself
            return *_adjoint(*given), None, None
        return *_FusedAdjoint.apply(*given), None, None  # type: ignore[no-untyped-call]


class _FusedAdjoint(torch.autograd.Function):
    """(y_bar, x, front, back, activation, wanted) -> (x_bar, front_bar, back_bar, bias_bar); only once."""

    @staticmethod
    def forward(*given: Any) -> tuple[Tensor | None, ...]:
        return _adjoint(*given)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        """Keep nothing: there is no second derivative."""

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError("fused_linear gives first derivatives only; schedule='materialise' gives all")


def _adjoint(
    y_bar: Tensor, x: Tensor, front: Tensor, back: Tensor, activation: str, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the adjoints that are wanted of x, front, back and bias."""
    (high_rows, high_columns, _), (low_rows, _, low_columns) = front.shape, back.shape
    x_bar = front_bar = back_bar = None
    if wanted[0]:
        x_bar = _multiply(y_bar, front.transpose(0, 1), back.permute(2, 1, 0), None, activation, x.shape[1])
    x_legs, y_legs = _in_legs(x, high_columns, low_columns), _in_legs(y_bar, high_rows, low_rows)
    if wanted[1]:  # the same with high and low legs exchanged
        exchanged = back.transpose(1, 2), front.transpose(1, 2)
        front_bar = _back_adjoint(x_legs.transpose(1, 2), y_legs, *exchanged, activation).transpose(1, 2)
    if wanted[2]:
        back_bar = _back_adjoint(x_legs, y_legs.transpose(1, 2), front, back, activation)
    return x_bar, front_bar, back_bar, y_bar.sum(0) if wanted[3] else None


# As operators of torch the kernels are opaque to torch.compile, which then needs no graph break.
@torch.library.custom_op(
    "adntn::fused_multiply",
    mutates_args=(),
    schema="(Tensor x, Tensor front, Tensor back, Tensor? bias, str activation, SymInt out_features) -> Tensor",
)
def _multiply(
    x: Tensor, front: Tensor, back: Tensor, bias: Tensor | None, activation: str, out_features: int
) -> Tensor:
    """Return x @ W[:out_features].T + bias, for x of shape (batch, columns), at most those of W."""
    kernels, batch = _kernels(x.device), len(x)
    (high_rows, high_columns, bond), (low_rows, _, low_columns) = front.shape, back.shape
    if not batch:
        return x.new_zeros(0, out_features)
    block_m, block_b = _block(high_rows, x), _block(batch, x)
    programs = low_rows * ceil(high_rows / block_m) * ceil(batch / block_b)
    parts = _parts(programs, block_m, batch * out_features, front, back)
    out = x.new_empty(parts, batch, out_features, dtype=torch.float32 if parts > 1 else x.dtype)
    with _on(x.device):
        kernels.multiply[(programs, parts)](
            _in_legs(x, high_columns, low_columns).contiguous(),
            front.contiguous(),
            back.contiguous(),
            None if bias is None else bias.contiguous(),
            out,
            batch,
            high_rows,
            low_rows,
            high_columns,
            low_columns,
            out_features,
            bond=bond,
            block_m=block_m,
            block_k=_block(bond, x),
            block_b=block_b,
            **_arithmetic(x, activation),
        )
    return out[0] if parts == 1 else out.sum(0).to(x.dtype)


@_multiply.register_fake
def _(x: Tensor, front: Tensor, back: Tensor, bias: Tensor | None, activation: str, out_features: int) -> Tensor:
    return x.new_empty(x.shape[0], out_features)


@torch.library.custom_op(
    "adntn::fused_back_adjoint",
    mutates_args=(),
    schema="(Tensor x, Tensor y_bar, Tensor front, Tensor back, str activation) -> Tensor",
)
def _back_adjoint(x: Tensor, y_bar: Tensor, front: Tensor, back: Tensor, activation: str) -> Tensor:
    """Return back_bar, for x of shape (batch, CH, CL) and y_bar of shape (batch, RL, RH)."""
    kernels, batch = _kernels(x.device), len(x)
    (high_rows, high_columns, bond), (low_rows, _, low_columns) = front.shape, back.shape
    if not batch:
        return back.new_zeros(back.shape)
    block_m, block_k = _block(high_rows, x), _block(bond, x)
    programs = low_rows * ceil(low_columns / _block(low_columns, x)) * ceil(bond / block_k)
    parts = _parts(programs, block_m, back.numel(), front, back)
    out = x.new_empty(parts, *back.shape, dtype=torch.float32 if parts > 1 else x.dtype)

    def grid(chosen: dict[str, Any]) -> tuple[int, int]:
        return low_rows * ceil(low_columns / chosen["block_n"]) * ceil(bond / block_k), parts

    with _on(x.device):
        kernels.back_adjoint[grid](
            x.contiguous(),
            y_bar.contiguous(),
            front.contiguous(),
            back.contiguous(),
            out,
            batch,
            high_rows,
            low_rows,
            high_columns,
            low_columns,
            bond=bond,
            block_m=block_m,
            block_k=block_k,
            block_b=_block(batch, x),
            **_arithmetic(x, activation),
        )
    return out[0] if parts == 1 else out.sum(0).to(x.dtype)


@_back_adjoint.register_fake
def _(x: Tensor, y_bar: Tensor, front: Tensor, back: Tensor, activation: str) -> Tensor:
    return back.new_empty(back.shape)


def _in_legs(matrix: Tensor, high: int, low: int) -> Tensor:
    """Return (batch, features) as (batch, high, low), with zeros for the features that were cropped."""
    return pad(matrix, (0, high * low - matrix.shape[1])).reshape(len(matrix), high, low)


def _block(size: int, x: Tensor) -> int:
    """Return the tile's length for a size: a power of two, at least the 16 that tensor cores want.

    At most 32 in float32: products without tensor cores are unrolled, and larger tiles then overflow the registers.
    """
    return min(64 if x.element_size() == 2 else 32, max(16, 1 << (size - 1).bit_length()))


def _parts(programs: int, block_m: int, sums: int, front: Tensor, back: Tensor) -> int:
    """Return into how many parts to split the high columns: enough programs, and sums of at most 1/8 of W's bytes."""
    device, (high_rows, high_columns, _) = back.device, front.shape
    processors = INTERPRETED_PROCESSORS
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count
    warps: int = programs * _kernels(device).warps(block_m, exact=_is_exact(back))
    weights = high_rows * high_columns * back.shape[0] * back.shape[2]
    affordable: int = weights * back.element_size() // 8 // (4 * sums)
    return max(1, min(ceil(BUSY * processors / warps), high_columns, affordable))


def _arithmetic(x: Tensor, activation: str) -> dict[str, Any]:
    """Return how the kernels compute: the number type and precision of products, and whether f may be approximate."""
    kernels = _kernels(x.device)
    # NumPy, on which the interpreter computes, has no bfloat16: there rounded values are multiplied as float32
    operand = "float32" if kernels.INTERPRETED else dtype_name(x)
    return {
        "activation": activation,
        "approximate": x.dtype != torch.float32 and torch.version.hip is None and not kernels.INTERPRETED,
        "operand": getattr(kernels.tl, operand),
        "precision": "ieee" if _is_exact(x) else "tf32",
        "enable_fp_fusion": True,  # a compiler's option, whose default differs between versions of Triton
    }


def _is_exact(x: Tensor) -> bool:
    """Return whether products are those of float32: it is the number type, and torch does not allow TF32."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # where it exists, asking for the older name can be an error
        return x.dtype == torch.float32 and matmul.fp32_precision != "tf32"
    return x.dtype == torch.float32 and not matmul.allow_tf32


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which Triton launches on a device: it takes the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _kernels(device: torch.device) -> ModuleType:
    """Return the module of the kernels, which imports Triton, if they run on the device."""
    try:
        kernels = import_module("adntn_torch.fused_kernels")
    except ImportError as error:
        if device.type == "cuda":
            raise ImportError("fused_linear needs Triton: pip install 'adntn[triton]'") from error
    else:
        if device.type == "cuda" or kernels.INTERPRETED:
            return kernels
    raise ValueError(f"fused_linear needs a CUDA device, got x on {str(device)!r}; {ELSEWHERE} on any device")


def _name(activation: str | Activation) -> str:
    """Return the name of an activation of the library."""
    if isinstance(activation, str) and activation in ACTIVATIONS:
        return activation
    found = activation_of(activation)
    if ACTIVATIONS.get(found.name) != found:
        raise ValueError(
            f"activation must be one of {', '.join(ACTIVATIONS)} in fused_linear, got {found.name!r}, one of your own;"
            f" {ELSEWHERE} with any activation"
        )
    return found.name


def _features(front: Tensor, back: Tensor, out_features: int | None, in_features: int | None) -> tuple[int, int]:
    """Return the weight's shape, if the factors fit each other and it is not larger than they make it."""
    if front.ndim != 3 or not front.numel():
        raise ValueError(f"front must have the shape (RH, CH, K), nowhere 0, got {tuple(front.shape)}")
    if back.ndim != 3 or back.shape[1] != front.shape[2] or not back.numel():
        raise ValueError(
            f"back must have the shape (RL, K, CL) with the K = {front.shape[2]} of front, got {tuple(back.shape)}"
        )
    rows, columns = front.shape[0] * back.shape[0], front.shape[1] * back.shape[2]
    for name, asked, most in (("out_features", out_features, rows), ("in_features", in_features, columns)):
        if asked is not None and not 1 <= asked <= most:
            raise ValueError(f"{name} must be from 1 to {most}, as many as the factors make, got {asked}")
    return out_features or rows, in_features or columns


def _check(x: Tensor, front: Tensor, back: Tensor, bias: Tensor | None, out_features: int, in_features: int) -> None:
    if x.dtype not in DTYPES:
        raise ValueError(f"x must be float32, bfloat16 or float16, got {dtype_name(x)}; {ELSEWHERE} in any number type")
    if not x.ndim or x.shape[-1] != in_features:
        raise ValueError(f"x must have the shape (..., {in_features}), got {tuple(x.shape)}")
    if bias is not None and bias.shape != (out_features,):
        raise ValueError(f"bias must have the shape ({out_features},), got {tuple(bias.shape)}")
    for name, tensor in (("front", front), ("back", back), ("bias", bias)):
        if tensor is not None and (tensor.dtype, tensor.device) != (x.dtype, x.device):
            raise ValueError(
                f"{name} must be {dtype_name(x)} on {str(x.device)!r} as x is,"
                f" got {dtype_name(tensor)} on {str(tensor.device)!r}"
            )
