"""Callbacks in the hands of Lightning and of transformers' Trainer."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import adntn
from adntn.verification.tolerance import EPSILON
from adntn_torch import compress, load_compressed
from adntn_torch.training import Teacher, dense_weights, logits, parameter_groups, relative_errors, warm_up
from adntn_torch.training.monitoring import compression_summary, core_gradient_norm

TTN = adntn.TTN.options(bond=2)
NEAR = 100 * EPSILON["float32"]


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def pair() -> tuple[nn.Sequential, nn.Sequential]:
    model, before = dense(), dense()
    compress(model, {"0": TTN})
    return model, before


def test_what_is_watched_is_counted_by_hand():
    model, _ = pair()
    model(torch.ones(3, 32)).sum().backward()
    cores = list(model[0].cores.values())
    count = sum(core.numel() for core in cores)
    assert compression_summary(model) == {"generated_weights": 1024, "core_parameters": count, "ratio": 1024 / count}
    together = torch.cat([core.grad.flatten().double() for core in cores])
    assert float(core_gradient_norm(model)) == pytest.approx(float(torch.linalg.norm(together)), rel=NEAR)
    model.zero_grad()
    assert core_gradient_norm(model) == 0
    with pytest.raises(ValueError, match="no generated layers"):
        compression_summary(dense())


@pytest.mark.parametrize(("library", "name"), [("lightning.pytorch", "Lightning"), ("transformers", "transformers")])
def test_the_error_names_the_extra(library: str, name: str):
    root = library.partition(".")[0]
    code = f"import sys; sys.modules[{library!r}] = None; import adntn_torch.training.{root}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"needs {name}: pip install 'adntn[{root}]'" in ended.stderr


IMAGES = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 4


def test_lightning_logs_and_writes(tmp_path: Path):
    pytest.importorskip("lightning")
    from lightning.pytorch import LightningModule, Trainer  # noqa: PLC0415
    from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: PLC0415
    from lightning.pytorch.loggers import CSVLogger  # noqa: PLC0415

    from adntn_torch.training.lightning import CompressionCallback  # noqa: PLC0415

    model, before = pair()
    norms = []

    class Distillation(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.objective = logits(Teacher(before), temperature=2.0)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.objective(batch, self.model(batch[0]))

        def configure_optimizers(self) -> Any:
            optimiser = torch.optim.AdamW(parameter_groups(self.model, cores={"lr": 1e-2}))
            schedule = warm_up(optimiser, int(self.trainer.estimated_stepping_batches))
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_before_optimizer_step(self, optimiser: Any) -> None:
            norms.append(float(core_gradient_norm(self.model)))

    targets = dense_weights(model, before)
    callback = CompressionCallback("model", folder=tmp_path / "compressed", targets=targets)
    settings = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = Trainer(
        max_epochs=2,
        logger=logger,
        log_every_n_steps=1,
        callbacks=[callback, ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1)],
        **settings,
    )
    trainer.fit(Distillation(), DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4))
    lines = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    columns = {name: [line[number] for line in lines[1:] if line[number]] for number, name in enumerate(lines[0])}
    assert [float(norm) for norm in columns["core_gradient_norm"]] == pytest.approx(norms)
    assert len(norms) == 6
    assert float(columns["ratio"][0]) == pytest.approx(compression_summary(model)["ratio"])
    assert float(columns["relative_error/0"][-1]) == pytest.approx(relative_errors(model, targets)["0"])
    written = sorted(path.name for path in (tmp_path / "compressed").iterdir())
    assert written == ["step-3.safetensors", "step-6.safetensors"]
    loaded = load_compressed(dense, tmp_path / "compressed" / "step-6.safetensors")
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    model[0] = before[0]
    nothing = Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, callbacks=[CompressionCallback()], **settings
    )
    with pytest.raises(ValueError, match="no generated layers"):
        nothing.fit(Distillation(), DataLoader(TensorDataset(IMAGES, LABELS)))


def test_the_trainer_logs_and_writes(tmp_path: Path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    from adntn_torch.training.transformers import CompressionCallback  # noqa: PLC0415

    def build() -> nn.Module:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.BertConfig(**sizes, vocab_size=50, max_position_embeddings=16, num_labels=3)
        return transformers.BertForSequenceClassification(config)

    before = build()
    model = copy.deepcopy(before)
    compress(model, {"*.intermediate.dense": TTN})
    targets = dense_weights(model, before)
    teacher = Teacher(before, forward=lambda model, batch: model(**batch).logits)

    class Distilling(transformers.Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **others: Any) -> Any:
            outputs = model(**inputs)
            loss = outputs.loss + logits(teacher)(inputs, outputs.logits)
            return (loss, outputs) if return_outputs else loss

    reported: list[dict[str, Any]] = []

    class Reporting(transformers.TrainerCallback):
        def on_log(self, *arguments: Any, logs: dict[str, Any], **others: Any) -> None:
            reported.append(dict(logs))

    optimiser = torch.optim.AdamW(parameter_groups(model, cores={"lr": 1e-2}, others={"lr": 1e-3}))
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=2,
        logging_steps=1,
        save_steps=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    words = torch.randint(0, 50, (6, 7), generator=torch.Generator().manual_seed(0))
    examples = [{"input_ids": one, "labels": number % 3} for number, one in enumerate(words)]
    trainer = Distilling(
        model,
        settings,
        train_dataset=examples,
        optimizers=(optimiser, warm_up(optimiser, 3)),
        callbacks=[CompressionCallback(targets=targets), Reporting()],
    )
    trainer.train()
    assert all({"ratio", "relative_error/bert.encoder.layer.0.intermediate.dense"} <= set(logs) for logs in reported)
    assert len(reported) == 3 + 1
    steps = [line for line in trainer.state.log_history if "loss" in line]
    assert len(steps) == 3
    assert {"ratio", "core_gradient_norm"} <= set(steps[0])
    assert steps[0]["core_gradient_norm"] > 0
    for name, error in relative_errors(model, targets).items():
        assert steps[-1][f"relative_error/{name}"] == pytest.approx(error)
    for step in (2, 3):
        path = tmp_path / f"checkpoint-{step}" / "compressed.safetensors"
        loaded = load_compressed(build, path).eval()
    assert torch.equal(loaded(input_ids=words).logits, model.eval()(input_ids=words).logits)
    with pytest.raises(ValueError, match="weights for 'classifier'; generated are"):
        transformers.Trainer(
            model,
            settings,
            train_dataset=examples,
            callbacks=[CompressionCallback(targets={"classifier": torch.ones(3, 32)})],
        ).train()
