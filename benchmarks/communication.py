"""How many bytes a step of training sends, dense and compressed: `python -m benchmarks.communication --out FOLDER`.

Starts torchrun, and JAX with as many devices of the host; about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adntn.benchmarking.machine import machine, versions
from adntn.commands.output import console, write_whole
from benchmarks.spread import SETTING, Sent

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@dataclass(frozen=True)
class Row:
    """One engine with so many processes, or devices."""

    library: str
    processes: int
    engine: str
    dense: Sent
    compressed: Sent


def measured(library: str, processes: int) -> list[Row]:
    """Return what was sent by so many processes of torch, or devices of JAX.

    Raises:
        RuntimeError: if they fail; with what they printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "sent.json"
        module = ("-m", f"benchmarks.spread_{library}", str(target))
        start = (sys.executable, *module) if library == "jax" else (*TORCHRUN, str(processes), *module)
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={processes}",
        }
        done = subprocess.run(start, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(start)} failed:\n{done.stdout}{done.stderr}")
        found = json.loads(target.read_text(encoding="utf-8"))
    return [
        Row(library, processes, engine, Sent(**sent["dense"]), Sent(**sent["compressed"]))
        for engine, sent in found.items()
    ]


def table(rows: Iterable[Row]) -> str:
    """Return the table as Markdown."""
    head = (
        "| library | processes | engine | dense: bytes a step | compressed: bytes a step | ratio | dense: largest"
        " message | compressed: largest message | losses differ by |"
    )
    lines = [head, "|---|---:|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        apart = max(row.dense.apart, row.compressed.apart)
        lines.append(
            f"| {row.library} | {row.processes} | {row.engine} | {row.dense.size:,} | {row.compressed.size:,}"
            f" | {row.dense.size / row.compressed.size:,.1f} | {row.dense.largest:,} | {row.compressed.largest:,}"
            f" | {apart:.0e} |"
        )
    return "\n".join(lines)


def page(rows: Sequence[Row], command: str) -> str:
    """Return the page of results."""
    return (
        "# What processes send to each other\n\n"
        f"Made by `{command}`: a perceptron of two layers of {SETTING.width:,} x {SETTING.width:,}, dense, and"
        f" compressed ({SETTING.topology}, {rows[0].compressed.parameters:,} numbers with biases in place of"
        f" {rows[0].dense.parameters:,}), {SETTING.rows} examples a step in all, float32. A message counts once, by the"
        " size of the whole that it adds up or gathers. The losses of"
        f" {SETTING.steps} steps are compared with those of one process; the last column is the largest relative"
        " difference.\n\n"
        f"{table(rows)}\n\n"
        "In data parallelism (DDP, FSDP2, JAX's `value_and_grad`) the gradients of cores take the place of those of"
        " weights; FSDP2 also gathers no weights any more. Tensor parallelism sends activations and never a weight,"
        " compressed or dense, so that a compressed network sends a few kilobytes more: the gradients of its cores."
        " What it saves there is the memory and the loading of weights. The row *jit* shows what XLA does by itself"
        " with a divided batch: it adds up gradients where they are as large as weights.\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.communication", description=__doc__)
    parser.add_argument("--processes", nargs="+", type=int, default=(2, 4), help="(default: 2 4)")
    parser.add_argument("--libraries", nargs="+", choices=("torch", "jax"), default=("torch", "jax"))
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write distributed.md and distributed.json there")
    parsed = parser.parse_args(arguments)
    rows = [row for library in parsed.libraries for count in parsed.processes for row in measured(library, count)]
    console().print(table(rows), markup=False, soft_wrap=True)
    if parsed.out is not None:
        command = shlex.join(["python", "-m", "benchmarks.communication", *(sys.argv[1:] if arguments is None else [])])
        found: dict[str, Any] = {
            "command": command,
            "environment": machine(1) | versions(("adntn", "numpy", "torch", "jax", "jaxlib")),
            "rows": [asdict(row) for row in rows],
        }
        write_whole(parsed.out / "distributed.json", json.dumps(found, indent=1) + "\n")
        write_whole(parsed.out / "distributed.md", page(rows, command))


if __name__ == "__main__":
    main()
