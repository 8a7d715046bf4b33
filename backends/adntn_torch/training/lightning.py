"""A callback for Lightning, which is to be installed: `adntn[lightning]`.

Objectives, `parameter_groups` and `warm_up` go into a LightningModule as they are; see docs/training.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adntn_torch.files import save_compressed
from adntn_torch.training.fitting import check_targets, relative_errors
from adntn_torch.training.monitoring import compression_summary, core_gradient_norm

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError(
        f"adntn_torch.training.lightning needs Lightning: pip install 'adntn[lightning]' ({error})"
    ) from error


class CompressionCallback(Callback):  # type: ignore[misc]
    """Watches generated weights while Lightning trains, and writes the compressed network beside its checkpoints.

    Logged are `generated_weights`, `core_parameters` and `ratio` at the start, `core_gradient_norm` at every step of
    the optimiser (before Lightning clips), and, with targets, `relative_error/LAYER` after each epoch.

    Args:
        network: name of the compressed network in the LightningModule; "" for that itself.
        folder: where, whenever Lightning writes a checkpoint, `step-N.safetensors` is written by `save_compressed`: a
            file of kilobytes for each layer, without the optimiser; None for nowhere.
        targets: a weight for each layer by name in the network, such as `dense_weights` returns.

    Raises:
        AttributeError, ValueError: when the training starts, if there is no such network, it generates nothing, or
            the targets are not for its layers.
    """

    def __init__(
        self,
        network: str = "",
        *,
        folder: str | os.PathLike[str] | None = None,
        targets: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.folder, self.targets = network, folder, targets

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how much is generated from how little."""
        network = self._network(pl_module)
        summary = compression_summary(network)
        if self.targets is not None:
            check_targets(network, self.targets)
        for logger in trainer.loggers:
            logger.log_metrics(summary, step=trainer.global_step)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Log the gradient of the cores."""
        pl_module.log("core_gradient_norm", core_gradient_norm(self._network(pl_module)))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how far the weights are from their targets."""
        if self.targets is not None:
            errors = relative_errors(self._network(pl_module), self.targets)
            pl_module.log_dict({f"relative_error/{name}": error for name, error in errors.items()})

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the compressed network."""
        if self.folder is not None and trainer.is_global_zero:
            path = Path(self.folder) / f"step-{trainer.global_step}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_compressed(self._network(pl_module), path)

    def _network(self, pl_module: LightningModule) -> nn.Module:
        network: nn.Module = pl_module.get_submodule(self.network)
        return network
