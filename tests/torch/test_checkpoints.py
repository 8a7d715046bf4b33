"""Checkpoints: trainings go on to the bit from anywhere; files that are damaged or of another network are refused."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import MultiStepLR, StepLR
from torch.utils.data import DataLoader, Dataset

import adntn
from adntn_torch import adapt, compress
from adntn_torch.training import (
    CheckpointError,
    Checkpoints,
    FitStage,
    Stage,
    dense_weights,
    parameter_groups,
    read_checkpoint,
    run,
    save_checkpoint,
    task,
    warm_up,
)

TTN = adntn.TTN.options(bond=2)


class Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images moved by noise from all three sources of random numbers, and their targets."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = torch.full((32,), index / 24) + 0.1 * torch.rand(32)
        image[0] += np.random.rand()
        image[1] += random.random()
        return image, torch.tensor(index % 4)


def network(options: adntn.Options = TTN) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.3), nn.Linear(48, 4))
    compress(model, {"0": options})
    return model


def optimiser(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameter_groups(model, cores={"lr": 1e-2}, others={"lr": 1e-3, "weight_decay": 0.1}))


class InterruptedRunError(Exception):
    """The process came to its end."""


def stages(stop: tuple[str, int] | None = None) -> list[Stage | FitStage]:
    """Three stages: a fit, one that validates and is clipped, one in mixed precision; interrupted at a step, if so."""
    taken = dict.fromkeys(("distil", "fine-tune"), 0)

    def objective(name: str) -> Callable[[Any, Any], torch.Tensor]:
        def loss(batch: Any, outputs: Any) -> torch.Tensor:
            if stop == (name, taken[name]):
                raise InterruptedRunError
            taken[name] += 1
            return task(functional.cross_entropy)(batch, outputs)

        return loss

    def validate(model: nn.Module) -> float:
        if stop == ("validate", taken["distil"]):
            raise InterruptedRunError
        return float(model(torch.ones(2, 32) * torch.rand(())).square().sum())

    torch.manual_seed(1)
    targets = {"0": torch.randn(48, 32)}
    return [
        FitStage(targets, lbfgs=3),
        Stage("distil", objective("distil"), optimiser, epochs=3, clip=0.5, validate=validate, patience=2),
        Stage("fine-tune", objective("fine-tune"), optimiser, steps=7, autocast=torch.bfloat16),
    ]


def batches(own: bool = True, workers: int = 0) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5) if own else None
    return DataLoader(Noisy(), batch_size=5, shuffle=True, num_workers=workers, generator=generator)


def seeded() -> None:
    torch.manual_seed(2)
    np.random.seed(3)
    random.seed(4)


def all_states(model: nn.Module) -> dict[str, torch.Tensor]:
    numbers = {"numpy": torch.tensor(np.random.get_state()[1]), "python": torch.tensor(random.getstate()[1])}
    return {**model.state_dict(), **numbers, "torch": torch.get_rng_state()}


INTERRUPTIONS = [
    ("distil", 0),  # after the fit
    ("distil", 1),
    ("distil", 3),
    ("distil", 5),  # an epoch's first batch
    ("distil", 14),
    ("validate", 10),  # between an epoch's last step and its end
    ("validate", 15),  # the same, of the stage
    ("fine-tune", 0),
    ("fine-tune", 2),
    ("fine-tune", 6),
]


@pytest.mark.parametrize("every", [None, 1, 3])
@pytest.mark.parametrize("own", [True, False], ids=["own generator", "global generator"])
@pytest.mark.parametrize("stop", INTERRUPTIONS, ids=str)
def test_interrupted_trainings_end_as_if_they_had_not_been(
    tmp_path: Path, stop: tuple[str, int], own: bool, every: int | None
):
    seeded()
    model = network()
    seeded()
    whole = run(model, stages(), batches(own), metrics=tmp_path / "whole.jsonl")
    wanted = all_states(model)
    assert [epoch.stage for epoch in whole] == ["fit", *["distil"] * 3, *["fine-tune"] * 2]

    checkpoints, metrics = Checkpoints(tmp_path / "checkpoints", every=every), tmp_path / "metrics.jsonl"
    first = network()
    loader = batches(own)
    seeded()
    with pytest.raises(InterruptedRunError):
        run(first, stages(stop), loader, checkpoints=checkpoints, metrics=metrics)
    with metrics.open("a") as file:
        file.write('{"stage": "distil", "step": 99}\n{"stage": "di')  # after the checkpoint
    again = network(TTN)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.fill_(1.0)
    torch.manual_seed(77)
    random.seed(77)
    resumed = run(again, stages(), batches(own), checkpoints=checkpoints, metrics=metrics, resume=True)
    found = all_states(again)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    assert resumed == whole
    assert metrics.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert (
        run(network(), stages(), batches(own), checkpoints=checkpoints, resume=True) == whole
    )  # nothing is left to do
    assert len(checkpoints.paths()) <= 2


def test_a_run_that_ends_before_its_first_steps_are_saved_starts_again(tmp_path: Path):
    model, again = network(), network()
    seeded()
    whole = run(model, stages()[1:], batches())
    arguments = {"checkpoints": Checkpoints(tmp_path / "c", every=10), "metrics": tmp_path / "metrics.jsonl"}
    seeded()
    with pytest.raises(InterruptedRunError):
        run(again, stages(("distil", 3))[1:], batches(), **arguments)
    assert run(again, stages()[1:], batches(), **arguments, resume=True) == whole
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_processes_that_load_batches_make_them_as_they_did(tmp_path: Path):
    model, again = network(), network()
    seeded()
    whole = run(model, stages(), batches(workers=1))
    checkpoints = Checkpoints(tmp_path, every=1)
    seeded()
    with pytest.raises(InterruptedRunError):
        run(again, stages(("distil", 8)), batches(workers=1), checkpoints=checkpoints)
    seeded()
    assert run(again, stages(), batches(workers=1), checkpoints=checkpoints, resume=True) == whole
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_fresh_process_goes_on_to_the_bit(tmp_path: Path):
    model, interrupted = network(), network()
    seeded()
    run(model, stages(), batches())
    wanted = all_states(model)
    seeded()
    with pytest.raises(InterruptedRunError):
        run(interrupted, stages(("distil", 8)), batches(), checkpoints=Checkpoints(tmp_path / "checkpoints", every=2))
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
torch.set_num_threads(1)
from test_checkpoints import *
model = network()
run(model, stages(), batches(), checkpoints=Checkpoints({str(tmp_path / "checkpoints")!r}, every=2), resume=True)
torch.save(all_states(model), {str(tmp_path / "states.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    found = torch.load(tmp_path / "states.pt")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_loop_of_ones_own_goes_on_to_the_bit(tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    images = torch.randn(8, 32)

    def tools(model: nn.Module) -> dict[str, Any]:
        made = optimiser(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        return {"optimiser": made, "schedule": warm_up(made, 10), "scaler": scaler}

    def steps(model: nn.Module, optimiser: Any, schedule: Any, scaler: Any) -> None:
        for _ in range(5):
            scaler.scale(model(images).square().sum()).backward()
            scaler.step(optimiser)
            scaler.update()
            schedule.step()
            optimiser.zero_grad()

    model = network()
    own = tools(model)
    steps(model, **own)
    save_checkpoint(path, model, **own, position={"step": 5, "losses": [0.5], "best": {"w": torch.ones(2)}})
    steps(model, **own)
    other = network()
    theirs = tools(other)
    checkpoint = read_checkpoint(path)
    checkpoint.restore(other, **theirs)
    assert checkpoint.position["step"] == 5
    steps(other, **theirs)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert theirs["schedule"].get_last_lr() == own["schedule"].get_last_lr()
    assert theirs["scaler"].get_scale() == own["scaler"].get_scale() > 8


def test_the_last_ones_are_kept(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "new", every=2, keep=3)
    assert checkpoints.latest() is None
    run(network(), [Stage("a", task(functional.cross_entropy), optimiser, steps=9)], batches(), checkpoints=checkpoints)
    assert [path.name for path in checkpoints.paths()] == [f"step-00000000{step}.pt" for step in (6, 8, 9)]
    assert checkpoints.latest().position["stage"] == 1
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [path.name for path in checkpoints.paths()]


def test_a_step_before_the_last_one_is_refused(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    paths = [checkpoints.save(step, network()) for step in (900, 1000, 1000)]
    with pytest.raises(ValueError, match=r"step 10 comes before '.*step-000001000.pt': remove what is later"):
        checkpoints.save(10, network())
    assert checkpoints.paths() == paths[:2]


def test_folders_are_no_checkpoints(tmp_path: Path):
    path = Checkpoints(tmp_path).save(3, network())
    (tmp_path / "step-000000007.pt").mkdir()
    assert Checkpoints(tmp_path).latest().path == path


def test_generated_weights_are_not_in_the_file(tmp_path: Path):
    model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU())
    compress(model, {"0": TTN})
    model[0].freeze()
    save_checkpoint(tmp_path / "checkpoint.pt", model, optimiser=torch.optim.Adam(model.parameters()))
    assert (tmp_path / "checkpoint.pt").stat().st_size < 100_000


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = network()
    save_checkpoint(tmp_path / "checkpoint.pt", model, optimiser=optimiser(model))
    return tmp_path / "checkpoint.pt"


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another topology": (
        lambda: network(adntn.MERA.options(bond=2)),
        r"another network: '0' is TTN\(.*bond=2.*\) there and MERA\(.*bond=2.*\) here$",
    ),
    "another bond": (lambda: network(adntn.TTN.options(bond=3)), r"'0' is TTN\(bond=2\) there and TTN\(bond=3\) here"),
    "dense": (lambda: nn.Sequential(nn.Linear(32, 48)), "the model lacks the generated layers '0'"),
    "another layer": (
        lambda: network().append(nn.Linear(4, 4)),
        "it lacks the tensors '5.weight', '5.bias'$",
    ),
    "a layer less": (lambda: network()[:4], "the model lacks the tensors '4.weight', '4.bias'$"),
    "another width": (
        lambda: network()[:4].append(nn.Linear(48, 5)),
        r"'4.weight' is \(4, 48\) float32 there and \(5, 48\) float32 here \(and 1 more\)",
    ),
    "another number type": (lambda: network().double(), r"'0.bias' is \(48,\) float32 there and \(48,\) float64 here"),
}


@pytest.mark.parametrize(("build", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_another_network_is_refused_by_what_differs(saved: Path, build: Callable[[], nn.Module], message: str):
    other = build()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(saved).restore(other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_an_adapter_of_another_scaling_is_another_network(tmp_path: Path):
    path, (model, other) = tmp_path / "checkpoint.pt", [nn.Sequential(nn.Linear(32, 48)) for _ in range(2)]
    adapt(model, ["0"], topology=TTN)
    adapt(other, ["0"], topology=TTN, scaling=4.0)
    save_checkpoint(path, model)
    with pytest.raises(CheckpointError, match=r"'0.adntn_delta.default' is a delta times 1.0 there and .* 4.0 here$"):
        read_checkpoint(path).restore(other)


GROUPS: dict[str, tuple[Callable[[nn.Module], list[Any]], str]] = {
    "fewer": (lambda model: list(model.parameters()), "3 groups of parameters there, and 1 here"),
    "in another order": (
        lambda model: parameter_groups(model, cores={})[::-1],
        "group 0 has the parameters '4.weight' there, and '0.cores.top',",
    ),
}


@pytest.mark.parametrize(("groups", "message"), GROUPS.values(), ids=GROUPS.keys())
def test_another_optimiser_is_refused(saved: Path, groups: Callable[[nn.Module], list[Any]], message: str):
    model = network()
    with torch.no_grad():
        model[4].weight.fill_(7.0)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(saved).restore(model, optimiser=torch.optim.AdamW(groups(model)))
    assert (model[4].weight == 7.0).all()


def test_what_was_not_saved_is_not_restored(saved: Path):
    model = network()
    made = optimiser(model)
    sgd = torch.optim.SGD(parameter_groups(model, cores={}))
    with pytest.raises(CheckpointError, match="has as optimiser a AdamW, to be restored is a SGD"):
        read_checkpoint(saved).restore(model, optimiser=sgd)
    with pytest.raises(CheckpointError, match="saved without the schedule"):
        read_checkpoint(saved).restore(model, schedule=warm_up(made, 5))
    with pytest.raises(CheckpointError, match="saved without a generator of the data loader, and is restored with one"):
        read_checkpoint(saved).restore(model, generator=torch.Generator())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(saved: Path, share: float):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt' is damaged or no checkpoint: "):
        read_checkpoint(saved)


def test_a_changed_number_is_noticed(saved: Path):
    whole = bytearray(saved.read_bytes())
    number = network()[4].weight.detach().numpy().tobytes()[:16]
    whole[whole.index(number)] ^= 1
    saved.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"damaged or no checkpoint: .* checksum"):
        read_checkpoint(saved)


def test_compressed_numbers_are_not_unpacked(saved: Path):
    with zipfile.ZipFile(saved) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match=r"damaged or no checkpoint: it is compressed"):
        read_checkpoint(saved)


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


FOREIGN: dict[str, tuple[Any, str]] = {
    "a state dict": ({"weight": torch.ones(2)}, "no checkpoint of this library"),
    "a tensor": (torch.ones(2), "no checkpoint of this library"),
    "a later version": ({"version": 2}, "has version 2, this library reads 1"),
    "lacking the model": ({"version": 1, "network": {}}, "it lacks 'model'"),
}


@pytest.mark.parametrize(("contents", "message"), FOREIGN.values(), ids=FOREIGN.keys())
def test_other_files_are_refused(tmp_path: Path, contents: Any, message: str):
    torch.save(contents, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "other.pt")


def damaged(*keys: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the contents: the last of the keys is the value."""

    def change(contents: dict[str, Any]) -> None:
        place = contents
        for key in keys[:-2]:
            place = place[key]
        place[keys[-2]] = keys[-1]

    return change


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no fingerprint": (damaged("network", "generators", 3), "cannot be restored: "),
    "a tensor of another shape": (
        damaged("model", "4.bias", torch.ones(5)),
        "is damaged: it holds others than were saved as '4.bias'",
    ),
    "a tensor too few": (lambda contents: contents["model"].pop("4.bias"), "others than were saved as '4.bias'"),
    "a name too many": (damaged("model", "another", 1.0), "others than were saved as 'another'"),
    "a number for a tensor": (damaged("model", "4.bias", 1.0), "others than were saved as '4.bias'"),
    "no state of the optimiser": (damaged("optimiser", "state", [3]), "cannot be restored: "),
    "no groups": (damaged("groups", None), "cannot be restored: "),
    "random numbers that are none": (damaged("random", 0, "python", "x"), "cannot be restored: "),
    "random numbers of fewer sources": (lambda contents: contents["random"][0].pop("numpy"), "cannot be restored: "),
}


@pytest.mark.parametrize(("change", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_contents_are_refused_and_nothing_is_put_back(saved: Path, change: Callable[..., Any], message: str):
    contents = torch.load(saved)
    change(contents)
    torch.save(contents, saved)
    model = network()
    own = optimiser(model)
    model(torch.ones(2, 32)).sum().backward()
    own.step()
    seeded()
    before, steps = copy.deepcopy(model.state_dict()), copy.deepcopy(own.state_dict())
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(saved).restore(model, optimiser=own)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    after = own.state_dict()
    assert after["param_groups"] == steps["param_groups"]
    torch.testing.assert_close(after["state"], steps["state"], rtol=0, atol=0)
    found = torch.rand(()), np.random.rand(), random.random()
    seeded()
    assert found == (torch.rand(()), np.random.rand(), random.random())


def test_schedules_within_a_schedule_are_put_back_or_taken_back(saved: Path):
    model = network()
    own = optimiser(model)
    parts: list[torch.optim.lr_scheduler.LRScheduler] = [
        torch.optim.lr_scheduler.LinearLR(own, total_iters=2),
        torch.optim.lr_scheduler.CosineAnnealingLR(own, T_max=10),
    ]
    schedule = torch.optim.lr_scheduler.SequentialLR(own, parts, milestones=[2])
    start = copy.deepcopy(schedule.state_dict())
    for _ in range(4):
        own.step()
        schedule.step()
    save_checkpoint(saved, model, optimiser=own, schedule=schedule)
    reached = copy.deepcopy(schedule.state_dict())
    schedule.load_state_dict(copy.deepcopy(start))
    contents = torch.load(saved)
    torch.save(contents | {"random": [contents["random"][0] | {"python": "x"}]}, saved)
    with pytest.raises(CheckpointError, match="cannot be restored: "):
        read_checkpoint(saved).restore(model, optimiser=own, schedule=schedule)
    assert schedule.state_dict() == start
    torch.save(contents, saved)
    read_checkpoint(saved).restore(model, optimiser=own, schedule=schedule)
    assert schedule.state_dict() == reached


def test_no_code_is_run(tmp_path: Path):
    torch.save({"version": 1, "model": Harmful(tmp_path / "harm")}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"damaged or no checkpoint: it holds more than plain data$"):
        read_checkpoint(tmp_path / "bad.pt")
    assert not (tmp_path / "harm").exists()


class Remembering(nn.Linear):
    """A layer with a state beside its parameters."""

    def get_extra_state(self) -> Any:
        return {"seen": np.float32(3.0)}

    def set_extra_state(self, state: Any) -> None: ...


def with_rate(rate: Any) -> dict[str, Any]:
    model = network()
    return {"model": model, "optimiser": torch.optim.AdamW(model.parameters(), lr=rate)}


UNREADABLE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "position": (
        lambda: {"model": network(), "position": {"best": [1.0, Path()]}},
        r"position\['best'\]\[1\] must be a number, .* got PosixPath",
    ),
    "rate": (
        lambda: with_rate(np.logspace(-4, -2, 3)[1]),
        r"optimiser\['param_groups'\]\[0\]\['lr'\] must be a number, .* got float64$",
    ),
    "schedule": (
        lambda: {**(made := with_rate(0.1)), "schedule": StepLR(made["optimiser"], 3, gamma=np.float64(0.5))},
        r"schedule\['gamma'\] must be .* got float64",
    ),
    "extra state": (
        lambda: {"model": Remembering(2, 2)},
        r"model\['_extra_state'\]\['seen'\] must be .* got float32",
    ),
    "what cannot be pickled": (
        lambda: {"model": network(), "position": {"loss": lambda: 0}},
        r"position\['loss'\] must be .* got function",
    ),
}


@pytest.mark.parametrize(("made", "message"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_could_not_be_read_is_not_written(tmp_path: Path, made: Callable[[], dict[str, Any]], message: str):
    with pytest.raises(TypeError, match=message):
        save_checkpoint(tmp_path / "checkpoint.pt", **made())
    assert not [*tmp_path.iterdir()]


def test_what_can_be_read_is_written(tmp_path: Path):
    made = with_rate(0.1)  # its schedule keeps the milestones in a Counter
    save_checkpoint(tmp_path / "checkpoint.pt", **made, schedule=MultiStepLR(made["optimiser"], [2, 4]))
    made = with_rate(0.1)
    schedule = MultiStepLR(made["optimiser"], [1])
    read_checkpoint(tmp_path / "checkpoint.pt").restore(**made, schedule=schedule)
    assert [*schedule.milestones] == [2, 4]


def test_files_of_an_earlier_run_are_not_written_over(tmp_path: Path):
    checkpoints, metrics = Checkpoints(tmp_path / "checkpoints"), tmp_path / "metrics.jsonl"
    stage = Stage("a", task(functional.cross_entropy), optimiser, steps=1)
    run(network(), [stage], batches(), checkpoints=checkpoints, metrics=metrics)
    for arguments in ({"checkpoints": checkpoints}, {"metrics": metrics}):
        with pytest.raises(FileExistsError, match="is of an earlier run: give resume=True"):
            run(network(), [stage], batches(), **arguments)
    with pytest.raises(FileExistsError, match=r"metrics.jsonl' is of an earlier run: .*mistyped' has no checkpoint"):
        run(network(), [stage], batches(), checkpoints=Checkpoints(tmp_path / "mistyped"), metrics=metrics, resume=True)
    assert not (tmp_path / "mistyped").exists()
    assert len(metrics.read_text().splitlines()) == 2
    with pytest.raises(CheckpointError, match=r"of a training in the stages \['a'\], not \['b'\]"):
        run(
            network(),
            [Stage("b", stage.objective, optimiser, steps=1)],
            batches(),
            checkpoints=checkpoints,
            resume=True,
        )


def short(name: str = "a", **length: int) -> Stage:
    return Stage(name, task(functional.cross_entropy), optimiser, **length)


#: Where a run of two stages was interrupted, as what it is to go on, and how many steps that makes, or why not.
CHANGED: dict[str, tuple[str, list[Stage], int, int | str]] = {
    "more epochs": ("a", [short(epochs=3), short("b", steps=2)], 5, 15 + 2),
    "fewer epochs": (
        "a",
        [short(epochs=1), short("b", steps=2)],
        5,
        "is in stage 'a' of 10 steps; here it has only 5$",
    ),
    "other batches": ("a", [short(epochs=2), short("b", steps=2)], 8, "saved in an epoch of 5 batches; here it has 3$"),
    "another end of what is to come": ("a", [short(epochs=2), short("b", steps=4)], 5, 10 + 4),
    "another end of what is done": (
        "b",
        [short(epochs=3), short("b", steps=2)],
        5,
        "has stage 'a' done, of 10 steps; here it has 15: to train on, add a stage$",
    ),
    "another stage": ("none", [short(epochs=2), short("b", steps=2), short("c", steps=3)], 5, 10 + 2 + 3),
    "a stage less": ("a", [short(epochs=2)], 5, r"in the stages \['a', 'b'\], not \['a'\]"),
}


@pytest.mark.parametrize(("stop", "stages", "size", "wanted"), CHANGED.values(), ids=CHANGED.keys())
def test_a_run_goes_on_longer_but_not_as_another(
    tmp_path: Path, stop: str, stages: list[Stage], size: int, wanted: int | str
):
    def interrupted(name: str, length: dict[str, int], step: int) -> Stage:
        taken = iter(range(100))

        def objective(batch: Any, outputs: torch.Tensor) -> torch.Tensor:
            if name == stop and next(taken) == step:
                raise InterruptedRunError
            return functional.cross_entropy(outputs, batch[1])

        return Stage(name, objective, optimiser, **length)

    model, arguments = network(), {"checkpoints": Checkpoints(tmp_path / "c", every=1), "metrics": tmp_path / "m"}
    before = [interrupted("a", {"epochs": 2}, 7), interrupted("b", {"steps": 2}, 1)]
    with nullcontext() if stop == "none" else pytest.raises(InterruptedRunError):
        run(model, before, batches(), **arguments)
    lines = arguments["metrics"].read_text()
    loader = DataLoader(Noisy(), batch_size=size, shuffle=True, generator=torch.Generator())
    if isinstance(wanted, str):
        with pytest.raises(CheckpointError, match=wanted):
            run(network(), stages, loader, **arguments, resume=True)
        assert arguments["metrics"].read_text() == lines
    else:
        history = run(network(), stages, loader, **arguments, resume=True)
        assert history[-1].step == wanted
        assert [epoch.stage for epoch in history if epoch.stage == "a"] == ["a"] * (3 if wanted == 17 else 2)


@pytest.mark.parametrize("arguments", [{"keep": 0}, {"every": -1}], ids=str)
def test_bad_numbers_of_checkpoints_are_refused(tmp_path: Path, arguments: dict[str, int]):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be at least 1, got"):
        Checkpoints(tmp_path, **arguments)


def test_the_fit_that_was_saved_is_the_one_that_goes_on(tmp_path: Path):
    dense = nn.Sequential(nn.Linear(32, 48))
    model = copy.deepcopy(dense)
    compress(model, {"0": adntn.LowRank.options(rank=3)})
    checkpoints = Checkpoints(tmp_path)
    run(model, [FitStage(dense_weights(model, dense))], [], checkpoints=checkpoints)
    assert checkpoints.latest().position["history"][0]["stage"] == "fit"
    other = copy.deepcopy(dense)
    compress(other, {"0": adntn.LowRank.options(rank=3)})
    checkpoints.latest().restore(other)
    assert torch.equal(other[0].weight, model[0].weight)
