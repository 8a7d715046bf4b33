"""Objectives against formulas of their own, rates, and stages: what they reach, write, clip, stop and refuse."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matrix import LAYER_TOPOLOGIES
from torch import nn
from torch.nn import functional
from torch.optim import LBFGS
from torch.utils.data import DataLoader, TensorDataset

import adntn
import adntn_torch
from adntn.verification.tolerance import EPSILON
from adntn_torch import compress
from adntn_torch.training import (
    Epoch,
    FitStage,
    Stage,
    Teacher,
    capture,
    dense_weights,
    features,
    features_loss,
    fit_layers,
    forward,
    logits,
    logits_loss,
    parameter_groups,
    rate_factor,
    relative_errors,
    run,
    task,
    warm_up,
    weight_fit,
    weighted_sum,
)

TTN = adntn.TTN.options(bond=2)
NEAR = 100 * EPSILON["float64"]
MSE = task(functional.mse_loss)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Network(nn.Module):
    """A layer in front of attention in front of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 32, dtype=torch.float64)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True, dtype=torch.float64)
        self.head = nn.Linear(32, 24, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.head(self.attention(x, x, x)[0].mean(1))


def pair(rules: dict[str, adntn.Options] | None = None) -> tuple[nn.Module, nn.Module]:
    """A compressed network and the dense one that it was."""
    torch.manual_seed(0)
    dense = Network()
    model = copy.deepcopy(dense)
    compress(model, {"first": TTN} if rules is None else rules)
    return model, dense


BATCH = (random(5, 4, 12), random(5, 24, seed=1))
BATCHES = [(random(5, 4, 12, seed=number), random(5, 24, seed=100 + number)) for number in range(4)]


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameter_groups(model, cores={"lr": 1e-2}, others={"lr": 1e-3}))


# objectives


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)], ids=str)
def test_distillation_of_logits_is_the_scaled_divergence(shape: tuple[int, ...], temperature: float):
    student, teacher = random(*shape), random(*shape, seed=1)
    rows = []
    for ours, theirs in zip(student.reshape(-1, 7).numpy(), teacher.reshape(-1, 7).numpy(), strict=True):
        p, q = (np.exp(one / temperature) / np.exp(one / temperature).sum() for one in (theirs, ours))
        rows.append(temperature**2 * np.sum(p * np.log(p / q)))
    assert logits_loss(student, teacher, temperature=temperature).item() == pytest.approx(np.mean(rows), rel=NEAR)


@pytest.mark.parametrize("both", [True, False], ids=["both exclude", "the teacher excludes"])
def test_what_the_teacher_excludes_adds_nothing(both: bool):
    excluded = torch.tensor([0, 1, 0, 0, 1, 0, 0], dtype=torch.bool)
    ours, theirs = random(5, 7), random(5, 7, seed=1).masked_fill(excluded, -math.inf)
    student = (ours.masked_fill(excluded, -math.inf) if both else ours).requires_grad_()
    p, q = (one.detach().softmax(-1).numpy()[:, ~excluded] for one in (theirs, student))
    loss = logits_loss(student, theirs)
    assert loss.item() == pytest.approx(np.mean(np.sum(p * np.log(p / q), -1)), rel=NEAR)
    loss.backward()
    wanted = (student.detach().softmax(-1) - theirs.softmax(-1)) / 5
    assert torch.allclose(student.grad, wanted, rtol=0, atol=NEAR)


def test_gradients_of_distillation_keep_their_size_at_high_temperatures():
    teacher = random(5, 7, seed=1)

    def gradient(temperature: float) -> torch.Tensor:
        student = random(5, 7).requires_grad_()
        logits_loss(student, teacher, temperature=temperature).backward()
        return student.grad

    hot, limit = gradient(1e4), (random(5, 7) - teacher) / 7 / 5
    limit = limit - limit.mean(-1, keepdim=True)
    assert torch.linalg.norm(hot - limit) < 1e-3 * torch.linalg.norm(limit)


def test_features_are_what_submodules_return():
    model, dense = pair()
    teacher = Teacher(dense, features=["first", "attention"])
    with capture(model, ["first", "attention"]) as found:
        outputs = forward(model, BATCH)
        loss = features(found, teacher)(BATCH, outputs)
    errors = []
    attended = []
    for network in (model, dense):
        x = network.first(BATCH[0])
        attended.append((x, network.attention(*[torch.relu(x)] * 3)[0]))
    for ours, theirs in zip(*attended, strict=True):
        errors.append(((ours - theirs) ** 2).sum() / (theirs**2).sum())
    assert loss.item() == pytest.approx(float(sum(errors).detach()) / 2, rel=NEAR)
    assert not found
    loss.backward()
    assert all(core.grad is not None for core in model.first.cores.values())
    assert all(one.grad is None for one in dense.parameters())


def test_no_hooks_are_left():
    model, dense = pair()
    with pytest.raises(ZeroDivisionError), capture(model, ["first"]):
        1 / 0  # noqa: B018
    Teacher(dense, features=["first"]).features(BATCH)
    assert not any(module._forward_hooks for one in (model, dense) for module in one.modules())


def test_the_teacher_runs_once_for_a_batch():
    _, dense = pair()
    runs: list[Any] = []
    teacher = Teacher(dense, features=["head"], forward=lambda model, batch: runs.append(batch) or model(batch[0]))
    outputs = teacher.outputs(BATCH)
    assert torch.equal(teacher.features(BATCH)["head"], outputs)
    assert len(runs) == 1
    other = teacher.outputs(BATCHES[1])
    assert len(runs) == 2
    assert torch.allclose(other, dense(BATCHES[1][0]))
    assert not other.requires_grad
    assert not dense.training


@pytest.mark.parametrize("options", LAYER_TOPOLOGIES.values(), ids=LAYER_TOPOLOGIES.keys())
def test_the_weight_fit_is_the_sum_of_relative_errors_and_learns(options: adntn.Options):
    model, dense = pair({"first": options, "head": options})
    targets = dense_weights(model, dense)
    wanted = [
        float((((layer.weight - target) ** 2).sum() / (target**2).sum()).detach())
        for layer, target in ((model.first, dense.first.weight), (model.head, dense.head.weight))
    ]
    loss = weight_fit(model, targets)(None, None)
    assert loss.item() == pytest.approx(sum(wanted), rel=NEAR)
    assert relative_errors(model, targets) == pytest.approx(
        {"first": math.sqrt(wanted[0]), "head": math.sqrt(wanted[1])}, rel=NEAR
    )
    stage = Stage("fit", weight_fit(model, targets), adam, steps=20, forward=lambda model, batch: None)
    run(model, [stage], [None])
    assert weight_fit(model, targets)(None, None) < loss


@pytest.mark.parametrize("joined", [True, False])
def test_targets_of_attention_are_its_projections(joined: bool):
    model, dense = pair({"first": TTN})
    model.attention = adntn_torch.MultiheadAttention.from_dense(dense.attention, TTN, joined=joined)
    targets = dense_weights(model, dense)
    together = torch.cat([targets[name].reshape(-1, 32) for name in targets if name.startswith("attention")])
    assert torch.equal(together, dense.attention.in_proj_weight)
    assert len(targets) == (2 if joined else 4)
    separate = nn.MultiheadAttention(32, 2, kdim=8, vdim=16, dtype=torch.float64)
    dense.attention, model.attention = separate, adntn_torch.MultiheadAttention.from_dense(separate, TTN)
    assert torch.equal(dense_weights(model, dense)["attention.k_proj"], separate.k_proj_weight)


def test_fitted_layers_reach_what_their_topology_can():
    model, dense = pair({"first": adntn.LowRank.options(rank=2), "head": adntn.LowRank.options(rank=5)})
    seen: list[str] = []
    errors = fit_layers(model, dense_weights(model, dense), lbfgs=0, progress=lambda name, error: seen.append(name))
    assert seen == ["first", "head"]
    for name, rank in (("first", 2), ("head", 5)):
        values = np.linalg.svd(dense.get_submodule(name).weight.detach().numpy())[1]
        best = np.linalg.norm(values[rank:]) / np.linalg.norm(values)
        assert errors[name] == pytest.approx(best, rel=NEAR)
    assert relative_errors(model, dense_weights(model, dense)) == pytest.approx(errors, rel=NEAR)


def test_a_sum_weighs_its_terms():
    model, dense = pair()
    terms = MSE, logits(Teacher(dense), temperature=2.0), weight_fit(model, dense_weights(model, dense))
    outputs = model(BATCH[0])
    wanted = sum(
        weight * float(term(BATCH, outputs).detach()) for weight, term in zip((0.5, 2.0, -1.0), terms, strict=True)
    )
    assert weighted_sum(*zip((0.5, 2.0, -1.0), terms, strict=True))(BATCH, outputs).item() == pytest.approx(wanted)


BAD_OBJECTIVES: dict[str, tuple[Callable[[nn.Module, nn.Module], Any], type[Exception], str]] = {
    "unknown submodule": (
        lambda model, dense: Teacher(dense, features=["frist"]),
        ValueError,
        "no submodules 'frist'; it has 'first', 'attention', 'attention.out_proj', 'head'",
    ),
    "a text for names": (
        lambda model, dense: Teacher(dense, features="first"),
        TypeError,
        "list, got the text 'first'",
    ),
    "teacher without features": (lambda model, dense: features({}, Teacher(dense)), ValueError, "must keep features"),
    "not captured": (
        lambda model, dense: features_loss({"head": BATCH[0]}, {"first": BATCH[0]}),
        ValueError,
        "nothing was captured of the student's 'first'; captured are 'head'",
    ),
    "features of another shape": (
        lambda model, dense: features_loss({"first": random(2, 3)}, {"first": random(3, 2)}),
        ValueError,
        r"student's features 'first' have shape \(2, 3\), the teacher's \(3, 2\)",
    ),
    "logits of another shape": (
        lambda model, dense: logits(Teacher(dense))(BATCH, random(5, 23)),
        ValueError,
        r"student's logits have shape \(5, 23\), the teacher's \(5, 24\)",
    ),
    "logits that are no tensor": (
        lambda model, dense: logits(Teacher(dense))(BATCH, {"logits": random(5, 24)}),
        TypeError,
        "student's logits must be a tensor, got dict; give a forward",
    ),
    "temperature": (lambda model, dense: logits(Teacher(dense), temperature=0), ValueError, "above 0, got 0"),
    "nothing generated": (lambda model, dense: dense_weights(dense, dense), ValueError, "no generated layers"),
    "nothing generated to fit": (
        lambda model, dense: weight_fit(dense, {"first": random(2)}),
        ValueError,
        "nothing to",
    ),
    "no targets": (lambda model, dense: weight_fit(model, {}), ValueError, "at least one generated layer"),
    "target of a dense layer": (
        lambda model, dense: weight_fit(model, {"head": random(24, 32)}),
        ValueError,
        "weights for 'head'; generated are 'first'",
    ),
    "target of another shape": (
        lambda model, dense: weight_fit(model, {"first": random(12, 32)}),
        ValueError,
        r"target of layer 'first' must have shape \(32, 12\), got \(12, 32\)",
    ),
    "zero target": (
        lambda model, dense: weight_fit(model, {"first": random(32, 12) * 0}),
        ValueError,
        "not be all zero",
    ),
    "dense network without the layer": (
        lambda model, dense: dense_weights(model, nn.Sequential()),
        ValueError,
        "no layer 'first'",
    ),
    "dense layer of another shape": (
        lambda model, dense: dense_weights(nn.Sequential(model.first), nn.Sequential(dense.head)),
        ValueError,
        r"layer '0' generates \(32, 12\), the dense network's weight has \(24, 32\)",
    ),
    "empty sum": (lambda model, dense: weighted_sum(), ValueError, "at least one pair"),
    "infinite weight": (lambda model, dense: weighted_sum((math.inf, MSE)), ValueError, "finite number, got inf"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD_OBJECTIVES.values(), ids=BAD_OBJECTIVES.keys())
def test_bad_objectives_are_refused(call: Callable[..., Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call(*pair())


# rates


def test_groups_part_the_parameters():
    model, _ = pair()
    model.head.requires_grad_(False)
    groups = {
        group["name"]: group for group in parameter_groups(model, cores={"lr": 1.0}, others={"weight_decay": 0.1})
    }
    named = {id(one): name for name, one in model.named_parameters()}
    names = {group: sorted(named[id(one)] for one in groups[group]["params"]) for group in groups}
    assert names == {
        "matrices": ["attention.in_proj_weight", "attention.out_proj.weight"],
        "vectors": ["attention.in_proj_bias", "attention.out_proj.bias", "first.bias"],
        "cores": sorted(f"first.cores.{name}" for name in model.first.cores),
    }
    decays = {name: group["weight_decay"] for name, group in groups.items()}
    assert decays == {"matrices": 0.1, "vectors": 0.0, "cores": 0.0}
    assert parameter_groups(model, cores={"weight_decay": 0.5})[2]["weight_decay"] == 0.5


def test_cores_of_adapters_are_cores():
    _, dense = pair()
    adntn_torch.adapt(dense, ["first"], topology=TTN)
    (group,) = parameter_groups(dense, cores={})
    assert group["name"] == "cores"
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(dense.requires_grad_(False), cores={})


@pytest.mark.parametrize("decay", ["cosine", "constant"])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_rates_rise_and_fall(decay: Any, share: float):
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=2.0)
    schedule = warm_up(optimiser, 40, share=share, decay=decay)
    rates = []
    for _ in range(40):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    rising = round(40 * share)
    wanted = [2.0 * (step + 1) / rising for step in range(rising)]
    for step in range(rising, 40):
        wanted.append(
            2.0 if decay == "constant" else 2.0 * math.cos(math.pi / 2 * (step - rising) / (40 - rising)) ** 2
        )
    assert rates == pytest.approx(wanted)
    assert rate_factor(1000, 40, rising, decay) == pytest.approx(1.0 if decay == "constant" else 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": -3}, "got -3"),
        ({"steps": 3, "share": 1.5}, "share must be from 0 to 1, got 1.5"),
        ({"steps": 3, "decay": "linear"}, "one of cosine, constant, got 'linear'"),
    ],
    ids=str,
)
def test_bad_rates_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        warm_up(torch.optim.SGD([nn.Parameter(torch.zeros(()))]), **arguments)


# stages


def test_steps_are_those_of_a_loop_by_hand():
    model, _ = pair()
    hand = copy.deepcopy(model)
    history = run(model, [Stage("task", MSE, adam, epochs=2, clip=0.5)], BATCHES)
    optimiser = adam(hand)
    schedule = warm_up(optimiser, 8)
    losses = []
    for x, y in BATCHES * 2:
        optimiser.zero_grad()
        loss = functional.mse_loss(hand(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(hand.parameters(), 0.5)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), hand.parameters(), strict=True))
    assert history == (Epoch("task", 1, 4, np.mean(losses[:4])), Epoch("task", 2, 8, np.mean(losses[4:])))


def test_three_stages_bring_a_network_back():
    torch.manual_seed(0)
    images = torch.randn(256, 32)
    dense = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))
    answers = dense(images).argmax(1)
    model = copy.deepcopy(dense)
    batches = DataLoader(TensorDataset(images, answers), 32, shuffle=True)
    compress(model, {"2": adntn.MERA.options(bond=4)})

    def measured() -> tuple[float, float]:
        with torch.no_grad():
            outputs = model(images)
            return float(logits_loss(outputs, dense(images))), float((outputs.argmax(1) == answers).float().mean())

    def optimiser(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameter_groups(model, cores={"lr": 2e-2}, others={"lr": 1e-3}))

    teacher = Teacher(dense, features=["1", "3"])
    reached = [measured()]
    with capture(model, ["1", "3"]) as found:
        stages = [
            FitStage(dense_weights(model, dense), lbfgs=20),
            Stage(
                "distil",
                weighted_sum((1.0, logits(teacher, temperature=2.0)), (0.5, features(found, teacher))),
                optimiser,
                epochs=10,
            ),
            Stage("fine-tune", task(functional.cross_entropy), optimiser, epochs=10),
        ]
        for stage in stages:
            run(model, [stage], batches)
            reached.append(measured())
    gaps, right = zip(*reached, strict=True)
    assert gaps[1] < 0.5 * gaps[0]
    assert gaps[2] < 0.5 * gaps[1]
    assert right[0] < 0.5 < right[1] < right[2] < right[3]
    assert right[3] > 0.9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision_computes_in_it_and_learns(dtype: torch.dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4))
    compress(model, {"0": TTN})
    seen = []
    images = torch.randn(64, 16)
    targets = images[:, :4] / 2

    def objective(batch: Any, outputs: torch.Tensor) -> torch.Tensor:
        seen.append(outputs.dtype)
        return functional.mse_loss(outputs.float(), batch[1])

    first, *_, last = run(model, [Stage("task", objective, adam, epochs=60, autocast=dtype)], [(images, targets)])
    assert set(seen) == {dtype}
    assert last.loss < 0.7 * first.loss
    assert all(one.dtype == torch.float32 for one in model.parameters())


def test_overflow_in_float16_leaves_the_step_out():
    model = nn.Linear(2, 1)
    before = copy.deepcopy(model.state_dict())
    huge = Stage("task", lambda batch, outputs: outputs.float().sum() * 1e38, adam, steps=1, autocast=torch.float16)
    run(model, [huge], [torch.ones(1, 2)])
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (None, 8)])
def test_a_stage_stops_early_with_its_best_state(patience: int | None, epochs: int):
    model, _ = pair()
    values = iter([5.0, 4.0, 4.5, 3.0, 3.0, 3.5, 3.2, 9.0])
    states = []

    def validate(model: nn.Module) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        states.append(copy.deepcopy(model.state_dict()))
        return next(values)

    stage = Stage("task", MSE, adam, epochs=8, validate=validate, patience=patience)
    history = run(model.train(), [stage], BATCHES)
    assert len(history) == epochs
    assert [epoch.validation for epoch in history] == [5.0, 4.0, 4.5, 3.0, 3.0, 3.5, 3.2, 9.0][:epochs]
    best = states[1 if patience == 1 else 3]
    assert all(torch.equal(one, best[name]) for name, one in model.state_dict().items())
    assert model.training


def test_metrics_are_lines_of_json(tmp_path: Path):
    model, dense = pair()
    stages = [
        FitStage(dense_weights(model, dense), lbfgs=1),
        Stage("task", MSE, adam, steps=6, clip=1.0, validate=lambda model: math.inf),
    ]
    history = run(model, stages, BATCHES, metrics=tmp_path / "metrics.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    fitted, of_fit, *rest = lines
    assert fitted["layer"] == "first"
    assert of_fit["mean_loss"] == pytest.approx(fitted["relative_error"] ** 2) == history[0].loss
    assert [line["step"] for line in rest] == [1, 2, 3, 4, 4, 5, 6, 6]
    assert [line["epoch"] for line in rest] == [1] * 5 + [2] * 3
    assert set(rest[0]) == {"stage", "epoch", "step", "loss", "rates", "gradient_norm"}
    assert rest[0]["rates"] == {"matrices": 1e-3, "vectors": 1e-3, "cores": 1e-2}
    assert rest[4]["mean_loss"] == history[1].loss == pytest.approx(np.mean([line["loss"] for line in rest[:4]]))
    assert rest[4]["validation"] is None


def test_progress_is_silent_without_a_terminal(capfd: pytest.CaptureFixture[str]):
    run(pair()[0], [Stage("task", MSE, adam, steps=2)], BATCHES, progress=True)
    assert capfd.readouterr() == ("", "")


def test_progress_counts_the_steps(monkeypatch: pytest.MonkeyPatch):
    shown = []
    bar = nullcontext(lambda done, count, of: shown.append((done, count, of)))
    monkeypatch.setattr("adntn_torch.training.loop.shown_progress", lambda task: bar)
    (epoch,) = run(pair()[0], [Stage("task", MSE, adam, steps=1)], BATCHES, progress=True)
    assert shown == [(1, 1, f"task, loss {epoch.loss:.4g}")]


def test_a_validation_that_is_no_number_is_the_worst():
    values, states = iter([math.nan, 2.0, math.nan]), []

    def validate(model: nn.Module) -> float:
        states.append(copy.deepcopy(model.state_dict()))
        return next(values)

    model = pair()[0]
    assert len(run(model, [Stage("task", MSE, adam, epochs=3, validate=validate, patience=1)], BATCHES)) == 3
    assert all(torch.equal(one, states[1][name]) for name, one in model.state_dict().items())


def test_batches_may_be_mappings():
    model = pair()[0]
    objective = lambda batch, outputs: outputs.square().mean()  # noqa: E731
    (epoch,) = run(model, [Stage("task", objective, adam, steps=1)], [{"x": BATCH[0]}])
    assert epoch.loss > 0


BAD_RUNS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no length": (
        lambda: Stage("a", MSE, adam),
        ValueError,
        "stage 'a' needs either epochs or steps, got None and None",
    ),
    "two lengths": (lambda: Stage("a", MSE, adam, epochs=1, steps=1), ValueError, "either epochs or steps"),
    "negative steps": (lambda: Stage("a", MSE, adam, steps=-1), ValueError, "steps must be .* at least 1, got -1"),
    "half an epoch": (lambda: Stage("a", MSE, adam, epochs=0.5), ValueError, "epochs must be .* got 0.5"),
    "clip": (lambda: Stage("a", MSE, adam, steps=1, clip=0.0), ValueError, "clip must be above 0, got 0.0"),
    "autocast": (lambda: Stage("a", MSE, adam, steps=1, autocast=torch.float64), ValueError, "got torch.float64"),
    "patience without validate": (lambda: Stage("a", MSE, adam, steps=1, patience=1), ValueError, "needs validate"),
    "negative fit": (lambda: FitStage({}, lbfgs=-1), ValueError, "stage 'fit': lbfgs must be at least 0, got -1"),
    "an optimiser that was made": (
        lambda: Stage("a", MSE, adam(pair()[0]), steps=1),
        TypeError,
        r"stage 'a': optimiser must be a function .* lambda model: Adam\(model.parameters\(\), ...\); got one",
    ),
    "no optimiser": (
        lambda: run(pair()[0], [Stage("a", MSE, nn.Module.parameters, steps=1)], BATCHES),
        TypeError,
        "optimiser must make an Optimizer, got generator",
    ),
    "an optimiser with a closure": (
        lambda: run(pair()[0], [Stage("a", MSE, lambda model: LBFGS(model.parameters()), steps=1)], BATCHES),
        TypeError,
        "stage 'a': LBFGS cannot step by itself .missing a required argument: 'closure'",
    ),
    "no stages": (lambda: run(pair()[0], [], BATCHES), ValueError, "at least one stage"),
    "no stage": (lambda: run(pair()[0], ["fit"], BATCHES), TypeError, "Stage and FitStage, got str"),
    "the same names": (
        lambda: run(pair()[0], [Stage("a", MSE, adam, steps=1)] * 2, BATCHES),
        ValueError,
        "different names, got 'a' more than once",
    ),
    "no batches": (
        lambda: run(pair()[0], [Stage("a", MSE, adam, steps=1)], []),
        ValueError,
        "no batches in epoch 1 of stage 'a'",
    ),
    "no batches for epochs": (
        lambda: run(pair()[0], [Stage("a", MSE, adam, epochs=1)], []),
        ValueError,
        "no batches for stage 'a'",
    ),
    "batches that come once": (
        lambda: run(pair()[0], [Stage("a", MSE, adam, steps=5)], iter(BATCHES)),
        ValueError,
        "no batches in epoch 2",
    ),
    "batches without a length": (
        lambda: run(pair()[0], [Stage("a", MSE, adam, epochs=1)], iter(BATCHES)),
        TypeError,
        "batches no length: give steps",
    ),
    "not finite": (
        lambda: run(pair()[0], [Stage("a", lambda batch, y: y.sum() * math.nan, adam, steps=1)], BATCHES),
        FloatingPointError,
        "objective of stage 'a' is nan at step 1",
    ),
    "nothing to resume": (
        partial(run, nn.Linear(1, 1), [Stage("a", MSE, adam, steps=1)], [], resume=True),
        ValueError,
        "resume=True needs checkpoints",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD_RUNS.values(), ids=BAD_RUNS.keys())
def test_bad_runs_are_refused(call: Callable[[], Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()
