"""Checkpoints: all that a training consists of in one file, from which it goes on as if nothing had happened.

What is read is plain data (`torch.load` with `weights_only=True`), never code. A file is there as a whole or not
at all.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "checkpoint.pt"
>>> model = nn.Linear(4, 2)
>>> optimiser = torch.optim.AdamW(model.parameters())
>>> save_checkpoint(path, model, optimiser=optimiser, position={"step": 10})
>>> checkpoint = read_checkpoint(path)
>>> checkpoint.restore(model, optimiser=optimiser)
>>> checkpoint.position
{'step': 10}
"""

from __future__ import annotations

import os
import pickle
import random
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from adntn.atomic import whole_file
from adntn_torch.adapters.delta import Delta
from adntn_torch.choose import some
from adntn_torch.generated import GeneratedLayer
from adntn_torch.training.processes import gathered, is_first, own, processes

#: Of the files; what is newer is refused.
VERSION = 1
#: What a file must hold, and the type of it.
FIELDS: dict[str, type | tuple[type, ...]] = {
    "version": int,
    "network": dict,
    "model": dict,
    "kinds": dict,
    "groups": (list, type(None)),
    "optimiser": (dict, type(None)),
    "schedule": (dict, type(None)),
    "scaler": (dict, type(None)),
    "random": list,
    "position": dict,
}


class CheckpointError(ValueError):
    """A file is damaged, no checkpoint, or one of another network or training."""


@dataclass(frozen=True)
class Checkpoint:
    """What stands in a checkpoint.

    Attributes:
        path: of the file.
        position: what was saved under this name: where the training was.
        contents: all of it.
    """

    path: Path
    position: dict[str, Any]
    contents: dict[str, Any] = field(repr=False)

    def restore(
        self,
        model: nn.Module,
        *,
        optimiser: Optimizer | None = None,
        schedule: LRScheduler | None = None,
        scaler: torch.amp.GradScaler | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Put everything back, the states of the random numbers included, or change nothing.

        Each process gets its own random numbers; of another number of processes, none.

        Args:
            model: built as the one that was saved.
            optimiser, schedule, scaler: made for this model as they were then; None leaves what was saved of them.
            generator: of a data loader, if one was saved.

        Raises:
            CheckpointError: if the network is another, the optimiser has other groups of parameters, something was not
                saved that is to be restored, or what was saved is damaged; the message names what differs.
        """
        tools = {"optimiser": optimiser, "schedule": schedule, "scaler": scaler}
        there = {name: tool for name, tool in tools.items() if tool is not None}
        try:
            with _whole(there.values(), generator):
                self._restore(model, there, generator)
        except CheckpointError:
            raise
        except Exception as error:  # damaged contents make whoever loads them raise almost anything
            problem = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise CheckpointError(f"{str(self.path)!r} cannot be restored: {problem}") from error

    def _restore(self, model: nn.Module, tools: Mapping[str, Any], generator: torch.Generator | None) -> None:
        contents = self.contents
        if problem := _difference(contents["network"], fingerprint(model)):
            raise CheckpointError(f"{str(self.path)!r} is of another network: {problem}")
        told, held = contents["network"]["tensors"], _tensors(contents["model"])
        wrong = [name for name in told | held if told.get(name) != held.get(name)]
        if wrong := wrong or sorted(contents["model"].keys() ^ model.state_dict().keys()):
            raise CheckpointError(f"{str(self.path)!r} is damaged: it holds others than were saved as {some(wrong)}")
        for name, kind in _kinds(**tools).items():
            if name not in contents["kinds"]:
                raise CheckpointError(f"{str(self.path)!r} was saved without the {name} that is to be restored")
            if (saved := contents["kinds"][name]) != kind:
                raise CheckpointError(f"{str(self.path)!r} has as {name} a {saved}, to be restored is a {kind}")
        optimiser = tools.get("optimiser")
        if optimiser is not None and (problem := _other_groups(contents["groups"], _groups(model, optimiser))):
            raise CheckpointError(f"{str(self.path)!r} is of another optimiser: {problem}")
        randoms = own(contents["random"])
        if randoms is not None:
            _check_generator(randoms, generator)
        for name, tool in tools.items():
            tool.load_state_dict(contents[name])
        if randoms is not None:
            restore_random_state(randoms, generator)
        model.load_state_dict(contents["model"])  # last: it writes over what was there, and is known to fit


def save_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    optimiser: Optimizer | None = None,
    schedule: LRScheduler | None = None,
    scaler: torch.amp.GradScaler | None = None,
    generator: torch.Generator | None = None,
    position: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint, as a whole or not at all.

    Generated weights are not written, only their cores. Where torch has several processes, all must call this, each
    waits for the others, and the first writes, with the random numbers of all.

    Args:
        path: of the file; replaced, if it is there.
        model: whose state dict is saved, with its names, shapes and generators, so that no other can load it.
        optimiser, schedule, scaler: what is trained with.
        generator: of a data loader, where it has its own; those of torch, NumPy and Python are always saved.
        position: where the training is: numbers, texts, tensors, lists, tuples and dictionaries of these.

    Raises:
        ValueError: if a tensor of the model is spread over processes (a DTensor).
        TypeError: if something of all this could not be read without running code, such as a NumPy number for a rate;
            the message says where it is.
        OSError: if the file cannot be written.
    """
    if spread := [name for name, value in model.state_dict().items() if hasattr(value, "full_tensor")]:
        raise ValueError(
            f"model has {some(spread)} spread over processes, where this file would hold the first one's part alone:"
            " save it by torch.distributed.checkpoint"
        )
    contents: dict[str, Any] = {
        "version": VERSION,
        "network": fingerprint(model),
        "model": dict(model.state_dict()),
        "kinds": _kinds(optimiser=optimiser, schedule=schedule, scaler=scaler),
        "groups": None if optimiser is None else _groups(model, optimiser),
        "optimiser": None if optimiser is None else optimiser.state_dict(),
        "schedule": None if schedule is None else schedule.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "random": gathered(random_state(generator)),
        "position": {} if position is None else dict(position),
    }
    if is_first():
        _write(path, contents)
    if processes() > 1:
        torch.distributed.barrier()  # the file is there for all


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Return what stands in a checkpoint, read to the CPU; nothing in the file is run.

    Raises:
        CheckpointError: if it is cut short, damaged, no checkpoint, or of a later version.
        OSError: if it cannot be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:  # torch reads it without looking at its checksums
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"{damaged} has another checksum")
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise zipfile.BadZipFile("it is compressed")  # a few bytes could become gigabytes
            file.seek(0)
            contents = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged bytes make torch and zipfile raise almost anything
            first = str(error).partition("\n")[0]
            problem = "it holds more than plain data" if isinstance(error, pickle.UnpicklingError) else first
            raise CheckpointError(f"{str(path)!r} is damaged or no checkpoint: {problem}") from error
    if not isinstance(contents, dict) or not isinstance(contents.get("version"), int):
        raise CheckpointError(f"{str(path)!r} is no checkpoint of this library")
    if contents["version"] != VERSION:
        raise CheckpointError(f"{str(path)!r} has version {contents['version']}, this library reads {VERSION}")
    if wrong := [name for name, kind in FIELDS.items() if not isinstance(contents.get(name), kind)]:
        raise CheckpointError(f"{str(path)!r} is no checkpoint of this library: it lacks {some(wrong)}")
    return Checkpoint(path, contents["position"], contents)


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints by step, of which the last few are kept.

    Attributes:
        folder: made if it is not there; one that all processes see, if there are several.
        every: steps between two checkpoints of `run`; None for one after each epoch.
        keep: how many.

    Raises:
        ValueError: if a number is less than 1.
    """

    folder: str | os.PathLike[str]
    every: int | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        for name, number in (("every", self.every), ("keep", self.keep)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")

    def paths(self) -> list[Path]:
        """Return the checkpoints that are there, by step."""
        return [path for _, path in self._by_step()]

    def save(self, step: int, model: nn.Module, **saved: Any) -> Path:
        """Write the checkpoint of a step by `save_checkpoint`, then remove those that are too many; return its path.

        Raises:
            ValueError: if there is one of a later step, from which a resumed run would go on.
        """
        path = Path(self.folder) / f"step-{step:09}.pt"
        if later := [other for number, other in self._by_step() if number > step]:
            raise ValueError(
                f"step {step} comes before {str(later[-1])!r}: remove what is later, or give another folder"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, model, **saved)
        for old in self.paths()[: -self.keep] if is_first() else ():
            old.unlink()
        return path

    def latest(self) -> Checkpoint | None:
        """Return the last one, or None.

        Raises:
            CheckpointError: if it is damaged; remove it to go on from the one before.
        """
        paths = self.paths()
        return read_checkpoint(paths[-1]) if paths else None

    def _by_step(self) -> list[tuple[int, Path]]:
        files = [path for path in Path(self.folder).glob("step-*.pt") if path.is_file()]
        found = ((re.fullmatch(r"step-(\d+)\.pt", path.name), path) for path in files)
        return sorted((int(match[1]), path) for match, path in found if match)


def random_state(generator: torch.Generator | None = None) -> dict[str, Any]:
    """Return the states of the random numbers of torch, NumPy and Python, and of a generator, as plain data."""
    algorithm, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
        "numpy": [algorithm, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": random.getstate(),
        "generator": None if generator is None else generator.get_state(),
    }


def restore_random_state(state: Mapping[str, Any], generator: torch.Generator | None = None) -> None:
    """Put back what `random_state` returned; with another number of GPUs, without theirs.

    Raises:
        CheckpointError: if a generator was given only now, or only then.
    """
    _check_generator(state, generator)
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
    if generator is not None:
        generator.set_state(state["generator"])


def fingerprint(model: nn.Module) -> dict[str, dict[str, str]]:
    """Return what makes a network another one: names, shapes and number types, and how its weights are generated."""
    return {"tensors": _tensors(model.state_dict()), "generators": dict(_generators(model))}


def _write(path: str | os.PathLike[str], contents: dict[str, Any]) -> None:
    with whole_file(path) as partial:
        try:
            torch.save(contents, partial)
            # what a later run could not read must fail now; mapped, so that no tensor is read
            torch.load(os.fspath(partial), map_location="cpu", weights_only=True, mmap=True)
        except (pickle.PickleError, AttributeError, TypeError) as error:
            if problem := next(_not_plain(contents), None):
                raise TypeError(problem) from error
            raise


def _tensors(state: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


@contextmanager
def _whole(tools: Iterable[Any], generator: torch.Generator | None) -> Iterator[None]:
    """Take back what was done to optimisers and the like, and to the random numbers, if something fails within."""
    # loading puts other values in the place of these
    before = [(part, dict(vars(part))) for tool in tools for part in _with_schedules_within(tool)]
    randoms = random_state(generator)
    try:
        yield
    except BaseException:
        for tool, attributes in before:
            vars(tool).clear()
            vars(tool).update(attributes)
        restore_random_state(randoms, generator)
        raise


def _with_schedules_within(tool: Any) -> Iterator[Any]:
    """Yield an optimiser, scaler or schedule, and the schedules that it is made of: SequentialLR, ChainedScheduler."""
    yield tool
    for part in getattr(tool, "_schedulers", ()):
        yield from _with_schedules_within(part)


def _generators(model: nn.Module) -> Iterator[tuple[str, str]]:
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, GeneratedLayer):
            yield name, str(module.topology)
        elif isinstance(module, Delta):
            yield name, f"a delta times {module.scaling}"


def _check_generator(state: Mapping[str, Any], generator: torch.Generator | None) -> None:
    if (generator is None) != (state["generator"] is None):
        then, now = ("with", "without") if generator is None else ("without", "with")
        raise CheckpointError(f"the state was saved {then} a generator of the data loader, and is restored {now} one")


def _kinds(**tools: object) -> dict[str, str]:
    """Return the names of the classes of what there is."""
    return {name: type(tool).__name__ for name, tool in tools.items() if tool is not None}


def _difference(saved: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> str:
    """Return what differs between two fingerprints, generators first: names of cores follow from these."""
    problems = []
    for kind, what in (("generators", "generated layers"), ("tensors", "tensors")):
        then, here = saved.get(kind, {}), now[kind]
        if missing := [name for name in here if name not in then]:
            problems.append(f"it lacks the {what} {some(missing)}")
        if extra := [name for name in then if name not in here]:
            problems.append(f"the model lacks the {what} {some(extra)}")
        if other := [name for name in then if name in here and then[name] != here[name]]:
            name = other[0]
            more = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
            problems.append(f"{name!r} is {then[name]} there and {here[name]} here{more}")
        if problems:
            break
    return "; ".join(problems)


def _groups(model: nn.Module, optimiser: Optimizer) -> list[list[str]]:
    """Return the names of the parameters in each of an optimiser's groups."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names.get(id(one), "(none of the model)") for one in group["params"]] for group in optimiser.param_groups]


def _other_groups(saved: list[list[str]], now: list[list[str]]) -> str:
    if len(saved) != len(now):
        return f"it has {len(saved)} groups of parameters there, and {len(now)} here"
    for number, (then, here) in enumerate(zip(saved, now, strict=True)):
        if then != here:
            return f"group {number} has the parameters {some(then)} there, and {some(here)} here"
    return ""


def _not_plain(contents: Any, where: str = "") -> Iterator[str]:
    """Yield what is said of each thing that could not be read without running code."""
    if isinstance(contents, dict):
        for name, item in contents.items():
            yield from _not_plain(item, f"{where}[{name!r}]" if where else str(name))
    elif type(contents) in {list, tuple}:
        for number, item in enumerate(contents):
            yield from _not_plain(item, f"{where}[{number}]")
    elif not (contents is None or isinstance(contents, Tensor) or type(contents) in {bool, int, float, str}):
        kind = type(contents).__name__
        yield f"{where} must be a number, a text, a tensor, or a list, tuple or dict of these, got {kind}"
