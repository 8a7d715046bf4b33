"""The doctests of a backend are collected only where its framework is installed."""

from importlib.util import find_spec

FRAMEWORKS = {
    "adntn_cupy": "cupy",
    "adntn_torch": "torch",
    "adntn_torch/fused_kernels.py": "triton",
    "adntn_torch/peft.py": "peft",
    "adntn_torch/training/lightning.py": "lightning",
    "adntn_torch/training/transformers.py": "transformers",
    "adntn_jax": "jax",
    "adntn_jax/equinox.py": "equinox",
    "adntn_jax/files.py": "equinox",
    "adntn_jax/nnx.py": "flax",
    "adntn_jax/training.py": "optax",
}

collect_ignore = [path for path, framework in FRAMEWORKS.items() if find_spec(framework) is None]
