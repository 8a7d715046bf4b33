"""Training compressed networks: objectives that combine, rates that suit cores, exact checkpoints, stages.

>>> import adntn, adntn_torch, copy, torch
>>> from torch import nn
>>> from adntn_torch.training import FitStage, Stage, Teacher, dense_weights, logits, parameter_groups, run
>>> dense = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
>>> model = copy.deepcopy(dense)
>>> compression = adntn_torch.compress(model, {"0": adntn.TTN.options(bond=2)})
>>> optimiser = lambda model: torch.optim.AdamW(parameter_groups(model, cores={"lr": 3e-3}))
>>> stages = [
...     FitStage(dense_weights(model, dense), lbfgs=10),
...     Stage("distil", logits(Teacher(dense)), optimiser, steps=3),
... ]
>>> [epoch.stage for epoch in run(model, stages, [(torch.ones(8, 64), None)])]
['fit', 'distil', 'distil', 'distil']

`adntn_torch.training.lightning` and `adntn_torch.training.transformers` hold callbacks for these libraries, to be
imported by name.
"""

from adntn_torch.training.checkpoints import (
    Checkpoint,
    CheckpointError,
    Checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from adntn_torch.training.fitting import dense_weights, fit_layers, relative_errors
from adntn_torch.training.loop import run
from adntn_torch.training.objectives import (
    Forward,
    Objective,
    Teacher,
    capture,
    features,
    features_loss,
    forward,
    logits,
    logits_loss,
    task,
    weight_fit,
    weighted_sum,
)
from adntn_torch.training.rates import parameter_groups, rate_factor, warm_up
from adntn_torch.training.stages import Epoch, FitStage, Stage

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Checkpoints",
    "Epoch",
    "FitStage",
    "Forward",
    "Objective",
    "Stage",
    "Teacher",
    "capture",
    "dense_weights",
    "features",
    "features_loss",
    "fit_layers",
    "forward",
    "logits",
    "logits_loss",
    "parameter_groups",
    "rate_factor",
    "read_checkpoint",
    "relative_errors",
    "run",
    "save_checkpoint",
    "task",
    "warm_up",
    "weight_fit",
    "weighted_sum",
]
