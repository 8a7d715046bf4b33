"""A callback for the Trainer of transformers, which is to be installed: `adntn[transformers]`.

Objectives go into `Trainer.compute_loss`, `parameter_groups` and `warm_up` into `Trainer(optimizers=...)`; see
docs/training.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adntn_torch.files import save_compressed
from adntn_torch.training.fitting import check_targets, relative_errors
from adntn_torch.training.monitoring import compression_summary, core_gradient_norm

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError(
        f"adntn_torch.training.transformers needs transformers: pip install 'adntn[transformers]' ({error})"
    ) from error

#: The name of the compressed network in each folder of a checkpoint.
COMPRESSED = "compressed.safetensors"


class CompressionCallback(TrainerCallback):  # type: ignore[misc]
    """Watches generated weights while the Trainer trains, and writes the compressed network into its checkpoints.

    The Trainer's history (`trainer.state.log_history`) gets `ratio`, `core_gradient_norm` (at the last step of the
    optimiser, after the Trainer has clipped) and, with targets, `relative_error/LAYER`; so do callbacks that come after
    this one. Those that the Trainer makes of `report_to` come before: for TensorBoard, give `report_to=[]` and
    `callbacks=[CompressionCallback(), TensorBoardCallback()]`. Every checkpoint's folder gets `compressed.safetensors`,
    by `save_compressed`.

    Args:
        targets: a weight for each layer by name, such as `dense_weights` returns.

    Raises:
        ValueError: when the training starts, if the model generates nothing or the targets are not for its layers.
    """

    def __init__(self, *, targets: Mapping[str, Tensor] | None = None) -> None:
        self.targets = targets
        self._norm: Tensor | None = None
        self._ratio = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **others: Any
    ) -> None:
        """Look whether there is something to watch."""
        self._ratio = compression_summary(model)["ratio"]
        if self.targets is not None:
            check_targets(model, self.targets)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **others: Any
    ) -> None:
        """Measure the gradient of the cores; it is read when something is logged."""
        self._norm = core_gradient_norm(model)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        logs: dict[str, Any],
        **others: Any,
    ) -> None:
        """Add to what later callbacks log, and to the history that the Trainer keeps."""
        own = {"ratio": self._ratio}
        if self._norm is not None:
            own["core_gradient_norm"] = float(self._norm)
        if self.targets is not None:
            errors = relative_errors(model, self.targets)
            own |= {f"relative_error/{name}": error for name, error in errors.items()}
        logs.update(own)
        state.log_history[-1].update(own)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **others: Any
    ) -> None:
        """Write the compressed network into the checkpoint's folder."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            save_compressed(model, folder / COMPRESSED)
