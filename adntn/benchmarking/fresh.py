"""Running a function of one JSON value in a fresh process; its answer is one too."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from adntn.benchmarking.machine import THREAD_VARIABLES

#: What the fresh process runs; a folder to import from is the current one, as for any `python -c`.
PROGRAM = "from adntn.benchmarking.fresh import main; main()"
#: How libraries that know nothing of each other get on in one process, unless the environment says otherwise. Threads
#: that wait for work sleep: by default they keep a core busy, which the next contender's threads then lack (on a busy
#: machine a product of 0.2 ms took 16 ms). JAX takes a GPU's memory as it needs it, by default most of it at once.
TOGETHER = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
#: Stands before the answer, as libraries print what they like.
ANSWER = "\N{RIGHTWARDS ARROW} answer "


def named(place: str) -> Callable[..., Any]:
    """Return the function called MODULE:FUNCTION.

    >>> named("math:gcd")(12, 18)
    6
    """
    module, _, function = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def in_fresh_process(place: str, argument: Any, *, threads: int) -> Any:
    """Return what a function of one JSON value returns, run by a new interpreter with that many threads.

    Args:
        place: the function as MODULE:FUNCTION.
        argument: what it is given.
        threads: of the array libraries.

    Raises:
        RuntimeError: if the process fails, with the last line that it wrote.
    """
    environment = {**TOGETHER, **os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, place],
        input=json.dumps(argument),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    answers = [line.removeprefix(ANSWER) for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if done.returncode != 0 or not answers:
        words = done.stderr.strip().splitlines() or [f"no answer, exit code {done.returncode}"]
        raise RuntimeError(words[-1])
    return json.loads(answers[-1])


def main() -> None:
    """Read the argument, run the function named on the command line, print the answer."""
    answer = named(sys.argv[1])(json.loads(sys.stdin.read()))
    print("\n" + ANSWER + json.dumps(answer))
