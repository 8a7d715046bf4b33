"""`fused_linear` against the plain formula in double precision: by Triton's interpreter, or on a GPU."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import random_array, relative_error
from torch import Tensor

import adntn
from adntn.verification.tolerance import EPSILON
from adntn_torch import fused_linear

triton = pytest.importorskip("triton", reason="Triton is not installed")

MODULE = "adntn_torch.fused_kernels"
KERNELS = ("_multiply", "_back_adjoint")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU, not Triton's interpreter")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: Of a result's norm. In 16 bits W, Z_bar and the result are rounded; in 32 every sum is.
TOLERANCE = 4.0
#: RH, CH, K, RL, CL
SIZES = {
    "full tiles": (16, 16, 16, 2, 2),
    "half-empty tiles": (8, 8, 8, 3, 4),
    "ragged": (3, 5, 7, 4, 6),
    "bond 1": (4, 3, 1, 5, 6),
    "nothing but 1": (1, 1, 1, 1, 1),
    "bond in blocks": (2, 3, 150, 3, 2),
    "high rows in blocks": (70, 2, 3, 2, 1),
    "low columns in blocks": (1, 3, 4, 3, 70),
    "high columns in blocks": (2, 70, 4, 1, 2),
    "low rows in blocks": (2, 1, 4, 70, 3),
}


def imported(interpret: bool) -> ModuleType:
    """The kernels anew, interpreted or compiled, whichever another test of this process may have imported."""
    with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1" if interpret else "0"}):
        sys.modules.pop(MODULE, None)
        return importlib.import_module(MODULE)


@pytest.fixture
def _kernels() -> Iterator[None]:
    """Kernels that run here; afterwards those that were there before."""
    before = sys.modules.get(MODULE)
    imported(interpret=DEVICE == "cpu")
    yield
    sys.modules.pop(MODULE)
    if before is not None:
        sys.modules[MODULE] = before


@pytest.fixture
def compiled_kernels(_kernels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Kernels to be compiled, and nothing kept from earlier."""
    if DEVICE == "cpu" and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 6):
        pytest.skip("the interpreter of Triton before 3.6 leaves its functions in the place of the compiler's")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return imported(interpret=False)


pytestmark = pytest.mark.usefixtures("_kernels")


def arguments(sizes: tuple[int, ...], dtype: str, batch: tuple[int, ...] = (5,), **crop: int) -> dict[str, Any]:
    """x, front, back and bias, whose numbers the type holds exactly, and the crop."""
    high_rows, high_columns, bond, low_rows, low_columns = sizes
    shapes = {
        "x": (*batch, crop.get("in_features", high_columns * low_columns)),
        "front": (high_rows, high_columns, bond),
        "back": (low_rows, bond, low_columns),
        "bias": (crop.get("out_features", high_rows * low_rows),),
    }
    tensors = {
        name: torch.from_numpy(random_array(shape, seed) / (bond**0.25 if name in ("front", "back") else 1))
        for seed, (name, shape) in enumerate(shapes.items())
    }
    return {name: tensor.to(DEVICE, DTYPES[dtype]).requires_grad_() for name, tensor in tensors.items()} | crop


def plain(
    *,
    x: Tensor,
    front: Tensor,
    back: Tensor,
    bias: Tensor,
    activation: str,
    out_features: int = 0,
    in_features: int = 0,
) -> Tensor:
    """The definition, on the CPU in double precision."""
    high_rows, high_columns, _ = front.shape
    low_rows, _, low_columns = back.shape
    z = torch.einsum("ius,jsv->ijuv", front, back).reshape(high_rows * low_rows, high_columns * low_columns)
    weight = torch.sigmoid(z) if activation == "sigmoid" else PLAIN[activation](z)
    weight = weight[: out_features or high_rows * low_rows, : in_features or high_columns * low_columns]
    return x @ weight.T + bias


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    **{name: getattr(torch, name) for name in ("tanh", "sigmoid", "relu", "sin")},
    **{name: getattr(torch.nn.functional, name) for name in ("leaky_relu", "elu", "gelu", "silu", "softplus")},
}


def differentiated(function: Callable[..., Tensor], given: dict[str, Any], activation: str) -> dict[str, Tensor]:
    """The output, and the gradients of a loss whose y_bar is of order 1 and exact in every number type."""
    y = function(activation=activation, **given)
    y_bar = torch.from_numpy(np.sign(random_array(tuple(y.shape), seed=9))).to(y)
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor) and value.requires_grad}
    gradients = torch.autograd.grad(y, list(tensors.values()), y_bar)
    return {"y": y.detach(), **dict(zip(tensors, gradients, strict=True))}


def assert_agrees(given: dict[str, Any], activation: str, dtype: str) -> None:
    exact = {
        name: value.detach().cpu().double().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
        for name, value in given.items()
    }
    expected = differentiated(plain, exact, activation)
    found = differentiated(fused_linear, given, activation)
    for name, tensor in expected.items():
        assert found[name].dtype == DTYPES[dtype], name
        assert found[name].shape == tensor.shape, name
        assert relative_error(found[name], tensor) <= TOLERANCE * EPSILON[dtype], name


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_activation_and_its_derivative_are_those_of_the_formula(activation: str, dtype: str) -> None:
    assert_agrees(arguments(SIZES["ragged"], dtype), activation, dtype)


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        *((sizes, "float32") for sizes in SIZES),
        *((sizes, dtype) for dtype in DTYPES if dtype != "float32" for sizes in ("full tiles", "bond in blocks")),
    ],
)
def test_factors_may_have_any_sizes(sizes: str, dtype: str) -> None:
    """Where tiles begin and end is the same in every number type; in blocks, sums are kept in float32."""
    assert_agrees(arguments(SIZES[sizes], dtype), "tanh", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [(), (1,), (70,), (2, 3), (130,)], ids=str)
def test_x_may_have_any_batch(batch: tuple[int, ...], dtype: str) -> None:
    assert_agrees(arguments(SIZES["ragged"], dtype, batch), "silu", dtype)


@pytest.mark.parametrize("crop", [{"out_features": 11}, {"in_features": 23}, {"out_features": 3, "in_features": 1}])
def test_padding_of_the_weight_is_cropped(crop: dict[str, int]) -> None:
    assert_agrees(arguments(SIZES["ragged"], "float32", **crop), "sigmoid", "float32")


def test_an_empty_batch_gives_an_empty_output_and_zero_gradients() -> None:
    given = arguments(SIZES["ragged"], "float32", (0,))
    found = differentiated(fused_linear, given, "tanh")
    assert found["y"].shape == (0, 12)
    assert all(not found[name].any() and found[name].shape == given[name].shape for name in ("x", "front", "back"))


def test_the_output_is_contiguous_and_arguments_need_not_be() -> None:
    given = arguments(SIZES["ragged"], "float32", in_features=23)
    strided = {
        name: value.detach().repeat_interleave(2, dim=-1)[..., ::2].requires_grad_() if name != "in_features" else value
        for name, value in given.items()
    }
    assert fused_linear(**strided).is_contiguous()
    assert_agrees(strided, "tanh", "float32")


def test_without_bias_zero_is_added() -> None:
    given = arguments(SIZES["full tiles"], "float32")
    biased = fused_linear(**given | {"bias": torch.zeros_like(given["bias"])})
    assert torch.equal(fused_linear(**given | {"bias": None}), biased)


@pytest.mark.parametrize("alone", ["x", "front", "back", "bias"])
def test_each_gradient_can_be_wanted_alone(alone: str) -> None:
    given = arguments(SIZES["ragged"], "float32")
    together = differentiated(fused_linear, given, "gelu")
    frozen = {name: value if name == alone else value.detach() for name, value in given.items()}
    assert torch.equal(differentiated(fused_linear, frozen, "gelu")[alone], together[alone])


@pytest.mark.parametrize("size", [1e-4, 0.3, 30.0])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "elu", "gelu", "silu", "softplus"])
def test_activations_lose_no_digits_near_zero_nor_far_from_it(activation: str, size: float) -> None:
    given = arguments(SIZES["ragged"], "float32")
    frozen = {"front": given["front"].detach() * size, "back": given["back"].detach()}
    assert_agrees(given | frozen, activation, "float32")


def test_second_derivatives_are_refused() -> None:
    given = arguments(SIZES["ragged"], "float32")
    y = fused_linear(**given)
    (x_bar,) = torch.autograd.grad(y.sum(), given["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only; schedule='materialise' gives all"):
        (y.sum() + x_bar.sum()).backward()


def test_torch_compile_needs_no_graph_break() -> None:
    given = arguments(SIZES["ragged"], "float32")
    compiled = torch.compile(fused_linear, backend="aot_eager", fullgraph=True)
    expected = differentiated(fused_linear, given, "tanh")
    found = differentiated(compiled, given, "tanh")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "x": ({"x": torch.zeros(5, 29)}, r"x must have the shape \(\.\.\., 30\), got \(5, 29\)"),
    "x without features": ({"x": torch.zeros(())}, r"x must have the shape \(\.\.\., 30\), got \(\)"),
    "front": ({"front": torch.zeros(3, 5)}, r"front must have the shape \(RH, CH, K\), nowhere 0, got \(3, 5\)"),
    "back": ({"back": torch.zeros(4, 6, 6)}, r"the K = 7 of front, got \(4, 6, 6\)"),
    "bias": ({"bias": torch.zeros(13)}, r"bias must have the shape \(12,\), got \(13,\)"),
    "rows": ({"out_features": 13}, "out_features must be from 1 to 12, as many as the factors make, got 13"),
    "columns": ({"in_features": 0}, "in_features must be from 1 to 30, as many as the factors make, got 0"),
    "double": ({"x": torch.zeros(5, 30, dtype=torch.float64)}, "got float64; schedule='stream' does the same in any"),
    "mixed": ({"back": torch.zeros(4, 7, 6, dtype=torch.float16)}, "back must be float32 on .* as x is, got float16"),
    "elsewhere": (
        {"bias": torch.zeros(12, device="meta")},
        "bias must be float32 on .* as x is, got float32 on 'meta'",
    ),
    "unknown": ({"activation": "tahn"}, "activation must be one of identity, .*, got 'tahn'"),
    "own": (
        {"activation": adntn.Activation("cube", lambda xp, z: z * z * z, lambda xp, z: 3 * z * z)},
        "got 'cube', one of your own; schedule='stream' does the same with any activation",
    ),
    "own, with a name of ours": (
        {"activation": adntn.Activation("tanh", lambda xp, z: z, lambda xp, z: z)},
        "got 'tanh', one of your own",
    ),
}


@pytest.mark.parametrize(("wrong", "message"), BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_is_named(wrong: dict[str, Any], message: str) -> None:
    given = arguments(SIZES["ragged"], "float32")
    placed = {
        name: value.to(DEVICE) if isinstance(value, Tensor) and not value.is_meta else value
        for name, value in wrong.items()
    }
    with pytest.raises(ValueError, match=message):
        fused_linear(**given | placed)


def test_an_activation_of_the_library_may_be_given_itself() -> None:
    given = arguments(SIZES["ragged"], "float32")
    assert torch.equal(
        fused_linear(**given, activation=adntn.ACTIVATIONS["sin"]), fused_linear(**given, activation="sin")
    )


@pytest.mark.usefixtures("compiled_kernels")
def test_without_a_gpu_the_error_names_another_schedule() -> None:
    given = {name: value.cpu() for name, value in arguments(SIZES["ragged"], "float32").items()}
    with pytest.raises(
        ValueError, match=r"needs a CUDA device, got x on 'cpu'; schedule='stream' does .* on any device"
    ):
        fused_linear(**given)


@pytest.mark.parametrize("importing", ["adntn_torch", "adntn_torch.fused"])
def test_importing_the_layers_does_not_import_the_kernels(importing: str) -> None:
    command = f"import {importing}, sys; sys.exit({MODULE!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)


def compiled(kernel: str, dtype: str, kernels: ModuleType, capability: int = 90, **chosen: Any) -> Any:
    """A kernel for a GPU that need not be here, with the largest tiles."""
    long, exact = (32, True) if dtype == "float32" else (64, False)
    warps = kernels.warps(chosen.get("block_m", long), exact)
    chosen = {
        "bond": 64,
        "activation": "tanh",
        "approximate": not exact,
        "operand": getattr(triton.language, dtype),
        "precision": "ieee" if exact else "tf32",
        **dict.fromkeys(("block_m", "block_k", "block_b", "block_n"), long),
    } | chosen
    function = getattr(kernels, kernel)
    kinds = dict.fromkeys(
        ("x", "y_bar", "front", "back", "bias", "out"),
        {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}[dtype],
    )
    constants = {name: value for name, value in chosen.items() if name in function.arg_names}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in function.arg_names}
    return triton.compile(
        triton.compiler.ASTSource(function, signature, constexprs=constants),
        target=triton.backends.compiler.GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "num_stages": 3, "enable_fp_fusion": True},
    )


@pytest.mark.parametrize("capability", [80, 90], ids=["Ampere", "Hopper"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_compile_and_fit_into_shared_memory(
    kernel: str, dtype: str, capability: int, compiled_kernels: ModuleType
) -> None:
    found = compiled(kernel, dtype, compiled_kernels, capability)
    assert found.metadata.shared <= 99 * 1024  # bytes that every GPU since Ampere has


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_compile_for_each_activation(kernel: str, activation: str, compiled_kernels: ModuleType) -> None:
    assert compiled(kernel, "bfloat16", compiled_kernels, activation=activation).asm["cubin"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_compile_for_sizes_of_one_and_without_bias(kernel: str, compiled_kernels: ModuleType) -> None:
    sizes = ("batch", "high_rows", "low_rows", "high_columns", "low_columns", "out_features", "bond")
    assert compiled(kernel, "float16", compiled_kernels, bias=None, **dict.fromkeys(sizes, 1)).asm["cubin"]


@pytest.mark.parametrize("block_m", [16, 32, 64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_warp_computes_what_another_does(kernel: str, block_m: int, compiled_kernels: ModuleType) -> None:
    """As many activations as a thread's share of the tile."""
    warps = compiled_kernels.warps(block_m, exact=False)
    code = compiled(kernel, "bfloat16", compiled_kernels, block_m=block_m).asm["ptx"]
    assert code.count("tanh.approx") == block_m * 64 // (32 * warps)


@ON_GPU
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 16, 64, 200])
@pytest.mark.parametrize("sizes", [(8, 8, 8, 128, 128), (16, 16, 16, 64, 64), (64, 64, 64, 16, 16)], ids=str)
def test_large_weights_on_a_gpu(sizes: tuple[int, ...], batch: int, dtype: str) -> None:
    assert_agrees(arguments(sizes, dtype, (batch,)), "tanh", dtype)


@ON_GPU
def test_results_on_a_gpu_are_the_same_in_every_run() -> None:
    given = arguments((16, 16, 16, 64, 64), "bfloat16", (16,))
    runs = [differentiated(fused_linear, given, "tanh") for _ in range(3)]
    assert all(torch.equal(run[name], tensor) for run in runs[1:] for name, tensor in runs[0].items())


@ON_GPU
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_never_holds_the_weight(dtype: str) -> None:
    given = arguments((16, 16, 16, 256, 256), dtype, (16,))
    differentiated(fused_linear, given, "tanh")  # configurations are timed in buffers of their own
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    differentiated(fused_linear, given, "tanh")
    weight = 4096 * 4096 * given["x"].element_size()
    assert torch.cuda.max_memory_allocated() - held <= weight / 4
