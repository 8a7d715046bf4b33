"""Run experiments that files declare, several jobs at a time, and write what comes of them as lines of JSON.

Each version and seed is a job in a process of its own. Whatever was interrupted goes on where it was when the same
command is given again: finished jobs are in the results, a running one has its checkpoint in the folder of work.
`experiment_page.py` makes the page from the results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from adntn.atomic import whole_file
from arguments import positive, processors
from data import load_data, read_dataset, write_dataset
from experiment import DATA, Experiment, Version, place, read_experiment
from experiment_jobs import checkpoint_of, run_job
from features import features_of, read_convolutions
from memory import keep_freed_memory
from planning import clock
from training import InterruptedRunError, Stop, stop_on_interrupt

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

EXAMPLES = """examples:
  python examples/run_experiments.py examples/experiments/digits.toml
      needs no other data
  python examples/run_experiments.py examples/experiments/*.toml --data PATH/cifar-10-batches-py --weights vgg16.pth
      all of them; hours
  python examples/run_experiments.py examples/experiments/vgg16.toml --data PATH --versions "all layers*" --seeds 0
"""
INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """A version of an experiment and a seed."""

    file: Path
    experiment: Experiment
    version: Version
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """What its line in the results is found by."""
        return self.version.name, self.seed

    @property
    def declaration(self) -> dict[str, Any]:
        """All that decides its numbers, but for the seed."""
        return self.experiment.declaration(self.version)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    whole = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = whole.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="declarations of experiments (TOML)")
    add("--data", type=Path, metavar="PATH", help="folder with CIFAR-10, for the experiments that want it")
    add("--weights", type=Path, metavar="FILE", help="VGG-16 of ImageNet, for experiments on its features")
    add("--out", type=Path, default=Path("results", "paper"), help="folder of the results (default: %(default)s)")
    add(
        "--work",
        type=Path,
        default=Path("results", "work"),
        help="folder of data and checkpoints (default: %(default)s)",
    )
    add("--versions", nargs="+", default=["*"], metavar="PATTERN", help="only these")
    add("--seeds", nargs="+", type=int, help="only these")
    add("--jobs", type=positive, default=processors(), help="jobs at a time (default: %(default)s)")
    add("--threads", type=positive, default=1, help="of each job (default: %(default)s)")
    add("--again", action="store_true", help="run jobs anew whose results are there")
    add("--list", action="store_true", help="say what is to be run, and run nothing")
    add("--job", nargs=4, help=argparse.SUPPRESS)
    return whole


def finished(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file, in order; none if there is no file.

    Raises:
        ValueError: if a line is no JSON.
    """
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} holds something else than lines of JSON: {error}") from None


def write_results(path: Path, results: list[dict[str, Any]]) -> None:
    """Write results, a line each, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text("".join(json.dumps(result) + "\n" for result in results), encoding="utf-8")


def wanted(files: Sequence[Path], arguments: argparse.Namespace) -> list[Job]:
    """Return the jobs that the command line asks for and that have no result yet.

    Raises:
        ValueError: if a result was made from another declaration than the one that is there now.
    """
    jobs: list[Job] = []
    for file in files:
        experiment = read_experiment(file)
        chosen = [
            Job(file, experiment, version, seed)
            for version, seed in experiment.jobs()
            if any(fnmatchcase(version.name, pattern) for pattern in arguments.versions)
            and (arguments.seeds is None or seed in arguments.seeds)
        ]
        if not chosen:
            names = ", ".join(version.name for version in experiment.versions)
            raise ValueError(f"{file}: --versions and --seeds choose nothing of {names}; seeds {experiment.seeds}")
        done = {(result["version"], result["seed"]): result for result in finished(results_of(experiment, arguments))}
        for job in chosen:
            result = None if arguments.again else done.get(job.key)
            if result is not None and result["declaration"] != job.declaration:
                raise ValueError(
                    f"{file}: the result of {job.version.name!r}, seed {job.seed}, was made as the file said before; "
                    f"--again runs it anew"
                )
            if result is None:
                jobs.append(job)
    return jobs


def results_of(experiment: Experiment, arguments: argparse.Namespace) -> Path:
    """Return the file of an experiment's results."""
    out: Path = arguments.out
    return out / f"{experiment.name}.jsonl"


def prepared(experiment: Experiment, arguments: argparse.Namespace, console: Console) -> Path:
    """Return the file with an experiment's data, which is made where it is not there yet.

    Raises:
        ValueError: if the experiment wants data, or weights, that the command line does not name.
    """
    if experiment.data != DATA[0] and arguments.data is None:
        raise ValueError(f"{experiment.name} is about CIFAR-10: give --data PATH")
    if experiment.data == DATA[2] and arguments.weights is None:
        raise ValueError(f"{experiment.name} wants VGG-16 of ImageNet: give --weights FILE")
    amounts = f"{experiment.images or 'all'}-{experiment.test_images or 'all'}"
    source = None if experiment.data == DATA[0] else arguments.data
    sources = [str(source.resolve()).encode()] if source is not None else []
    if experiment.data == DATA[2]:
        sources.append(arguments.weights.read_bytes())
    digest = hashlib.sha256(b"".join(sources)).hexdigest()[:8]
    path: Path = arguments.work / f"{experiment.data.replace(' ', '-')}.{amounts}.{digest}.safetensors"
    if path.is_file():
        return path
    dataset = load_data(source, images=experiment.images, test_images=experiment.test_images)
    if experiment.data == DATA[2]:
        convolutions = read_convolutions(arguments.weights)
        torch.set_num_threads(processors())
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("features")
            dataset = features_of(
                dataset, convolutions, lambda done, total: progress.update(task, completed=done, total=total)
            )
    arguments.work.mkdir(parents=True, exist_ok=True)
    write_dataset(dataset, path)
    return path


@contextmanager
def alone(experiments: Iterable[Experiment], arguments: argparse.Namespace) -> Iterator[None]:
    """Keep others from running the same experiments into the same folder, where the system has locks of files.

    Raises:
        ValueError: if another process does.
    """
    with ExitStack() as held:
        for experiment in experiments if fcntl is not None else ():
            path = work_of(experiment, arguments) / "lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(path.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(
                    f"{experiment.name} is being run by another process, with --work {arguments.work}"
                ) from None
        yield


def run_all(jobs: Sequence[Job], arguments: argparse.Namespace, stop: Stop, console: Console) -> int:
    """Run jobs, several at a time, and add each one's result to its file; return the exit status.

    Jobs that begin where others end come after all others.
    """
    data = {name: prepared(one, arguments, console) for name, one in experiments_of(jobs).items()}
    started, left, failed = time.monotonic(), len(jobs), 0
    with ThreadPoolExecutor(arguments.jobs) as pool, stopping(stop):
        for late in (False, True):
            futures = {
                pool.submit(attended, job, data[job.experiment.name], arguments, stop): job
                for job in jobs
                if bool(job.version.needs) is late
            }
            for future in as_completed(futures):
                job, result = futures[future], future.result()
                if stop.requested and result is None:
                    continue
                left, failed = left - 1, failed + (result is None)
                if result is not None:
                    keep_result(result, results_of(job.experiment, arguments))
                    forget(job, arguments)
                told = "failed, see above" if result is None else summary(result)
                name = f"{job.experiment.name}, {job.version.name}, seed {job.seed}"
                console.print(f"{name}: {told}; {left} left, {clock(time.monotonic() - started)}", markup=False)
    if stop.requested:
        return INTERRUPTED
    return 1 if failed else 0


def attended(job: Job, data: Path, arguments: argparse.Namespace, stop: Stop) -> dict[str, Any] | None:
    """Run a job in a process of its own and return its result; None where it has none."""
    if stop.requested:
        return None
    work = work_of(job.experiment, arguments)
    work.mkdir(parents=True, exist_ok=True)
    result = result_of(job, arguments)
    if not arguments.again and (made := read_result(result)) and made["declaration"] == job.declaration:
        return made  # of a run that ended before it could keep it
    command = [sys.executable, __file__, str(job.file), "--threads", str(arguments.threads), "--work", str(work)]
    command += ["--job", job.version.name, str(job.seed), str(data), str(result)]
    # In a session of its own, so that Ctrl-C reaches it only once, by the signal below.
    process = subprocess.Popen(
        command, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    )
    told = False
    while process.poll() is None:
        if stop.requested and not told:
            process.terminate()
            told = True
        time.sleep(0.1)
    return read_result(result) if process.returncode == 0 else None


def read_result(path: Path) -> dict[str, Any] | None:
    """Return the result that a job has left, if it has.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no result of a job, remove it: {error}") from None
    return made


def forget(job: Job, arguments: argparse.Namespace) -> None:
    """Remove what a job has left to go on from: its result is kept."""
    result_of(job, arguments).unlink(missing_ok=True)
    checkpoint_of(job.version, job.seed, work_of(job.experiment, arguments)).unlink(missing_ok=True)


def result_of(job: Job, arguments: argparse.Namespace) -> Path:
    """Return the file in which a job leaves its result."""
    return work_of(job.experiment, arguments) / f"{place(*job.key)}.result.json"


def experiments_of(jobs: Iterable[Job]) -> dict[str, Experiment]:
    """Return the experiments of some jobs by name."""
    return {job.experiment.name: job.experiment for job in jobs}


@contextmanager
def stopping(stop: Stop) -> Iterator[None]:
    """Ask all jobs to stop if something goes wrong here."""
    try:
        yield
    except BaseException:
        stop.requested = True
        raise


def run_one(file: Path, job: Sequence[str], work: Path) -> None:
    """Run the job that `attended` asks for, in this process."""
    name, seed, data, result = job
    experiment = read_experiment(file)
    with stop_on_interrupt() as stop:
        made = run_job(experiment, experiment.version(name), int(seed), read_dataset(Path(data)), work, stop=stop)
    with whole_file(Path(result)) as temporary:
        temporary.write_text(json.dumps(made), encoding="utf-8")


def keep_result(result: dict[str, Any], path: Path) -> None:
    """Add a result to a file, in place of an earlier one of the same version and seed."""
    others = [one for one in finished(path) if (one["version"], one["seed"]) != (result["version"], result["seed"])]
    write_results(path, [*others, result])


def summary(result: dict[str, Any]) -> str:
    """Return what a result is about, in a line."""
    return (
        f"test {result['test_accuracy']:.2%}, train {result['train_accuracy']:.2%}, {result['stored']:,} stored, "
        f"{result['seconds']:.0f} s"
    )


def work_of(experiment: Experiment, arguments: argparse.Namespace) -> Path:
    """Return the folder of an experiment's checkpoints and weights."""
    work: Path = arguments.work
    return work / experiment.name


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 if a job failed, 2 for bad input, 130 for Ctrl-C."""
    arguments = parser().parse_args(given)
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    try:
        if arguments.job:
            run_one(arguments.files[0], arguments.job, arguments.work)
            return 0
        jobs = wanted(arguments.files, arguments)
        console = Console(soft_wrap=True)
        if arguments.list:
            for job in jobs:
                console.print(f"{job.experiment.name}: {job.version.name}, seed {job.seed}", markup=False)
            counts = [f"{name} {count}" for name, count in Counter(job.experiment.name for job in jobs).items()]
            console.print(f"{len(jobs)} jobs{': ' if counts else ''}{', '.join(counts)}", markup=False)
            return 0
        with stop_on_interrupt() as stop, alone(experiments_of(jobs).values(), arguments):
            return run_all(jobs, arguments, stop, console)
    except (InterruptedRunError, KeyboardInterrupt):
        return INTERRUPTED
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
