"""The Triton kernels of `adntn_torch.fused`: a tile of the weight lives in registers, is used, and is gone.

Importing this module imports triton. Only Triton's builtins are used: whether its library functions (tl.zeros,
tl.cdiv, tl.sigmoid ...) are interpreted is decided when triton is first imported, for builtins with each kernel.

A program works on tiles of the pre-activation, (block_m high rows) x (block_n low columns) at one low row and one high
column: there a tile is one product of a slice of the front factor and a slice of the back factor, and rows of x are
read along memory. Every program owns what it writes, so that results are the same in every run.

All arrays are contiguous, and may have more elements than 32 bits can count:

    x (batch, high columns, low columns)      front (high rows, high columns, bond)
    y_bar (batch, low rows, high rows)        back (low rows, bond, low columns)
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def _tanh(z, approximate: tl.constexpr):
    if approximate:  # one instruction, 11 bits
        y = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [z], dtype=tl.float32, is_pure=True, pack=1)
    else:  # Cephes: near zero the quotient would cancel
        square = z * z
        series = ((-5.70498872745e-3 * square + 2.06390887954e-2) * square - 5.37397155531e-2) * square
        series = (series + 1.33314422036e-1) * square - 3.33332819422e-1
        size = tl.abs(z)
        decay = tl.exp(-2.0 * size)
        far = (1.0 - decay) / (1.0 + decay)
        y = tl.where(size < 0.625, z + z * square * series, tl.where(z < 0.0, -far, far))
    return y


@triton.jit
def _sigmoid(z, approximate: tl.constexpr):
    if approximate:
        y = 0.5 * _tanh(0.5 * z, approximate) + 0.5
    else:
        decay = tl.exp(-tl.abs(z))
        y = tl.where(z < 0.0, decay, 1.0) / (1.0 + decay)
    return y


@triton.jit
def _activate(z, activation: tl.constexpr, approximate: tl.constexpr):
    """f(z), in float32."""
    if activation == "identity":
        y = z
    elif activation == "tanh":
        y = _tanh(z, approximate)
    elif activation == "sigmoid":
        y = _sigmoid(z, approximate)
    elif activation == "relu":
        y = tl.where(z <= 0.0, 0.0, z)  # this way round a NaN stays one
    elif activation == "leaky_relu":
        y = tl.where(z <= 0.0, 0.01 * z, z)
    elif activation == "elu":  # exp(z) - 1 without cancellation, from tanh(z / 2)
        half = _tanh(0.5 * tl.where(z > 0.0, 0.0, z), approximate)
        y = tl.where(z > 0.0, z, 2.0 * half / (1.0 - half))
    elif activation == "gelu":
        y = 0.5 * z * (1.0 + tl.math.erf(z * 0.7071067811865476))
    elif activation == "silu":
        y = z * _sigmoid(z, approximate)
    elif activation == "softplus":
        decay = tl.exp(-tl.abs(z))
        above = 1.0 + decay  # log(1 + decay), corrected for what the sum lost
        rest = tl.where(above == 1.0, decay, tl.log(above) * (decay / tl.where(above == 1.0, 1.0, above - 1.0)))
        y = tl.where(z > 0.0, z, 0.0) + rest
    else:
        tl.static_assert(activation == "sin")
        y = tl.sin(z)
    return y


@triton.jit
def _slope(z, activation: tl.constexpr, approximate: tl.constexpr):
    """f'(z), in float32; at a kink that of the left side."""
    if activation == "tanh":
        y = _tanh(z, approximate)
        slope = 1.0 - y * y
    elif activation == "sigmoid":
        y = _sigmoid(z, approximate)
        slope = y * (1.0 - y)
    elif activation == "relu":
        slope = tl.where(z > 0.0, 1.0, 0.0)
    elif activation == "leaky_relu":
        slope = tl.where(z > 0.0, 1.0, 0.01)
    elif activation == "elu":
        slope = tl.exp(tl.where(z > 0.0, 0.0, z))
    elif activation == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * z * z)
        slope = 0.5 * (1.0 + tl.math.erf(z * 0.7071067811865476)) + z * density
    elif activation == "silu":
        gate = _sigmoid(z, approximate)
        slope = gate * (1.0 + z * (1.0 - gate))
    elif activation == "softplus":
        slope = _sigmoid(z, approximate)
    else:
        tl.static_assert(activation == "sin")
        slope = tl.cos(z)
    return slope


@triton.jit
def _load_front(front, rows, column, bonds, high_rows, high_columns, bond: tl.constexpr, operand: tl.constexpr):
    """front[rows, column, bonds], zero outside."""
    place = (rows.to(tl.int64)[:, None] * high_columns + column) * bond + bonds[None, :]
    inside = (rows[:, None] < high_rows) & (bonds[None, :] < bond)
    return tl.load(front + place, mask=inside, other=0.0).to(operand)


@triton.jit
def _load_back(back, row, bonds, columns, low_columns, bond: tl.constexpr, operand: tl.constexpr):
    """back[row, bonds, columns], zero outside."""
    place = (row.to(tl.int64) * bond + bonds[:, None]) * low_columns + columns[None, :]
    inside = (bonds[:, None] < bond) & (columns[None, :] < low_columns)
    return tl.load(back + place, mask=inside, other=0.0).to(operand)


@triton.jit
def _load_x(x, samples, column, columns, batch, high_columns, low_columns, operand: tl.constexpr):
    """x[samples, column, columns], zero outside."""
    place = (samples.to(tl.int64)[:, None] * high_columns + column) * low_columns + columns[None, :]
    inside = (samples[:, None] < batch) & (columns[None, :] < low_columns)
    return tl.load(x + place, mask=inside, other=0.0).to(operand)


@triton.jit
def _load_y_bar(y_bar, rows, row, samples, batch, high_rows, low_rows, operand: tl.constexpr):
    """y_bar[samples, row, rows] with rows first, zero outside."""
    place = (samples.to(tl.int64)[None, :] * low_rows + row) * high_rows + rows[:, None]
    inside = (samples[None, :] < batch) & (rows[:, None] < high_rows)
    return tl.load(y_bar + place, mask=inside, other=0.0).to(operand)


@triton.jit
def _multiply(
    x,
    front,
    back,
    bias,
    out,
    batch,
    high_rows,
    low_rows,
    high_columns,
    low_columns,
    out_features,
    bond: tl.constexpr,
    activation: tl.constexpr,
    approximate: tl.constexpr,
    operand: tl.constexpr,
    precision: tl.constexpr,
    block_m: tl.constexpr,
    block_k: tl.constexpr,
    block_b: tl.constexpr,
    block_n: tl.constexpr,
):
    """out[part, b, r] = sum over the part's columns c of W[r, c] x[b, c]; the first part adds the bias.

    Grid: (low rows * blocks of high rows * blocks of the batch, parts of the high columns).
    """
    place, part = tl.program_id(0), tl.program_id(1)
    row_blocks = (high_rows + block_m - 1) // block_m
    low_row = place % low_rows
    rows = place // low_rows % row_blocks * block_m + tl.arange(0, block_m)
    samples = place // low_rows // row_blocks * block_b + tl.arange(0, block_b)
    bonds = tl.arange(0, block_k)
    share = (high_columns + tl.num_programs(1) - 1) // tl.num_programs(1)

    total = tl.full((block_m, block_b), 0.0, tl.float32)
    for start in range(0, low_columns, block_n):
        columns = start + tl.arange(0, block_n)
        back_tile = _load_back(back, low_row, bonds, columns, low_columns, bond, operand)
        for column in range(part * share, tl.minimum(part * share + share, high_columns)):
            front_tile = _load_front(front, rows, column, bonds, high_rows, high_columns, bond, operand)
            z = tl.dot(front_tile, back_tile, input_precision=precision)
            for more in range(block_k, bond, block_k):
                front_more = _load_front(front, rows, column, more + bonds, high_rows, high_columns, bond, operand)
                back_more = _load_back(back, low_row, more + bonds, columns, low_columns, bond, operand)
                z = tl.dot(front_more, back_more, z, input_precision=precision)
            weight = _activate(z, activation, approximate).to(front.dtype.element_ty).to(operand)
            x_tile = _load_x(x, samples, column, columns, batch, high_columns, low_columns, operand)
            total = tl.dot(weight, tl.trans(x_tile), total, input_precision=precision)

    outputs = rows * low_rows + low_row
    inside = (rows < high_rows) & (outputs < out_features)
    if bias is not None:
        offset = tl.load(bias + outputs, mask=inside, other=0.0).to(tl.float32)
        total += tl.where(part == 0, offset, 0.0)[:, None]
    target = (part * batch + samples.to(tl.int64))[None, :] * out_features + outputs[:, None]
    tl.store(out + target, total.to(out.dtype.element_ty), mask=inside[:, None] & (samples[None, :] < batch))


@triton.jit
def _back_adjoint(
    x,
    y_bar,
    front,
    back,
    out,
    batch,
    high_rows,
    low_rows,
    high_columns,
    low_columns,
    bond: tl.constexpr,
    activation: tl.constexpr,
    approximate: tl.constexpr,
    operand: tl.constexpr,
    precision: tl.constexpr,
    block_m: tl.constexpr,
    block_k: tl.constexpr,
    block_b: tl.constexpr,
    block_n: tl.constexpr,
):
    """out[part, rl, s, cl] = sum over rh and the part's ch of front[rh, ch, s] Z_bar[(rh rl), (ch cl)].

    Grid: (low rows * blocks of low columns * blocks of the bond, parts of the high columns).
    """
    place, part = tl.program_id(0), tl.program_id(1)
    column_blocks = (low_columns + block_n - 1) // block_n
    low_row = place % low_rows
    columns = place // low_rows % column_blocks * block_n + tl.arange(0, block_n)
    own = place // low_rows // column_blocks * block_k + tl.arange(0, block_k)
    bonds, samples = tl.arange(0, block_k), tl.arange(0, block_b)
    share = (high_columns + tl.num_programs(1) - 1) // tl.num_programs(1)

    total = tl.full((block_k, block_n), 0.0, tl.float32)
    back_tile = _load_back(back, low_row, bonds, columns, low_columns, bond, operand)
    for start in range(0, high_rows, block_m):
        rows = start + tl.arange(0, block_m)
        y_bar_tile = _load_y_bar(y_bar, rows, low_row, samples, batch, high_rows, low_rows, operand)
        for column in range(part * share, tl.minimum(part * share + share, high_columns)):
            x_tile = _load_x(x, samples, column, columns, batch, high_columns, low_columns, operand)
            z_bar = tl.dot(y_bar_tile, x_tile, input_precision=precision)
            for more in range(block_b, batch, block_b):
                y_bar_more = _load_y_bar(y_bar, rows, low_row, more + samples, batch, high_rows, low_rows, operand)
                x_more = _load_x(x, more + samples, column, columns, batch, high_columns, low_columns, operand)
                z_bar = tl.dot(y_bar_more, x_more, z_bar, input_precision=precision)
            if activation != "identity":
                front_tile = _load_front(front, rows, column, bonds, high_rows, high_columns, bond, operand)
                z = tl.dot(front_tile, back_tile, input_precision=precision)
                for more in range(block_k, bond, block_k):
                    front_more = _load_front(front, rows, column, more + bonds, high_rows, high_columns, bond, operand)
                    back_more = _load_back(back, low_row, more + bonds, columns, low_columns, bond, operand)
                    z = tl.dot(front_more, back_more, z, input_precision=precision)
                z_bar *= _slope(z, activation, approximate)
            own_front = _load_front(front, rows, column, own, high_rows, high_columns, bond, operand)
            z_bar = z_bar.to(front.dtype.element_ty).to(operand)
            total = tl.dot(tl.trans(own_front), z_bar, total, input_precision=precision)

    target = ((part * low_rows + low_row).to(tl.int64) * bond + own)[:, None] * low_columns + columns[None, :]
    inside = (own[:, None] < bond) & (columns[None, :] < low_columns)
    tl.store(out + target, total.to(out.dtype.element_ty), mask=inside)


#: Whether TRITON_INTERPRET was set when this module was imported: kernels then run on NumPy, on any device.
INTERPRETED = not isinstance(_multiply, triton.runtime.JITFunction)

CONFIGURATIONS = [
    triton.Config({"block_n": block_n}, num_warps=num_warps, num_stages=num_stages)
    for block_n, num_stages in ((16, 2), (32, 3), (64, 3), (128, 2))
    for num_warps in (1, 2, 4)
]
SIZES = ["high_rows", "low_rows", "high_columns", "low_columns", "bond", "block_b", "activation", "precision"]


def warps(block_m: int, exact: bool) -> int:
    """Return the warps of a program.

    A tensor core's tile has 16 rows; more warps than a tile has of these would all compute the same activations, as the
    compiler lays out a product that feeds another. Exact float32 products have no tensor cores.
    """
    return 4 if exact else block_m // 16


def _worth_trying(configurations: list[Any], arguments: dict[str, Any], **more: Any) -> list[Any]:
    """Return the configurations whose tiles are filled; narrow ones only where the columns are."""
    given = arguments | more
    widest = max(16, triton.next_power_of_2(given["low_columns"]))
    fitting = warps(given["block_m"], exact=given["operand"] == tl.float32 and given["precision"] == "ieee")
    return [
        one for one in configurations if one.num_warps == fitting and min(widest, 32) <= one.kwargs["block_n"] <= widest
    ]


def _tuned(kernel: Any) -> Any:
    """The kernel, timed once per size and number type on a GPU; the interpreter takes one configuration."""
    configurations = [triton.Config({"block_n": 32})] if INTERPRETED else CONFIGURATIONS
    return triton.autotune(configurations, key=SIZES, prune_configs_by={"early_config_prune": _worth_trying})(kernel)


multiply = _tuned(_multiply)
back_adjoint = _tuned(_back_adjoint)
