"""Try to break it: `python -m robustness fuzz`, `soak`, `saves` or `numerics`; what was found is written as JSON."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from robustness.record import write_record

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "reliability"
CORPUS = ROOT / "tests" / "robustness" / "corpus"


def fuzz(arguments: argparse.Namespace) -> int:
    """Feed every reader with files that are almost right, for so many minutes."""
    from robustness import fuzz as fuzzing  # noqa: PLC0415  (each part needs other libraries)
    from robustness.readers import READERS  # noqa: PLC0415

    readers = {name: reader for name, reader in READERS.items() if reader.is_usable}

    def found(name: str, finding: str, blob: bytes) -> None:
        print(f"{name}: {finding}, kept as {fuzzing.keep(blob, arguments.findings, name)}", flush=True)

    known = fuzzing.known(CORPUS, readers)
    tallies = fuzzing.fuzz(readers, 60 * arguments.minutes, arguments.seed, known=known, found=found)
    if arguments.corpus is not None:
        fuzzing.keep_smallest(tallies, readers, arguments.corpus)
    write_record(
        arguments.out / "fuzz.json",
        "Readers of files, fed with mutated, truncated and harmful ones",
        f"python -m robustness fuzz --minutes {arguments.minutes:g} --seed {arguments.seed}",
        fuzzing.rows(tallies),
    )
    return int(any(tally.findings for tally in tallies.values()))


def soak(arguments: argparse.Namespace) -> int:
    """Train for thousands of steps, and look at the memory."""
    from robustness.soak import rows  # noqa: PLC0415

    write_record(
        arguments.out / "soak.json",
        "Resident memory of a process that trains a layer of 256 x 256",
        f"python -m robustness soak --steps {arguments.steps}",
        rows(arguments.steps),
    )
    return 0


def saves(arguments: argparse.Namespace) -> int:
    """Kill a process that saves, at random moments."""
    from robustness.saves import interrupted  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        row = interrupted(Path(folder), arguments.kills, seed=arguments.seed)
    write_record(
        arguments.out / "saves.json",
        "A process that saves checkpoints, weights and adapters, killed by SIGKILL at random moments",
        f"python -m robustness saves --kills {arguments.kills} --seed {arguments.seed}",
        [{**row, "lost or damaged": 0}],  # else an error would have ended this
    )
    return 0


def numerics(arguments: argparse.Namespace) -> int:
    """Compute weights and gradients at extremes."""
    from robustness.numerics import rows  # noqa: PLC0415

    found = rows()
    write_record(
        arguments.out / "numerics.json",
        "Weights and gradients at the edges of what numbers can be, beside those in double precision",
        "python -m robustness numerics",
        found,
    )
    return int(any(row["too far"] for row in found))


def main(given: Sequence[str] | None = None) -> int:
    """Run one part, and return 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m robustness", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="of the JSON files")
    parts = parser.add_subparsers(required=True, metavar="PART")
    fuzzer = parts.add_parser("fuzz", help=fuzz.__doc__)
    fuzzer.add_argument("--minutes", type=float, default=60)
    fuzzer.add_argument("--seed", type=int, default=0)
    fuzzer.add_argument("--findings", type=Path, default=ROOT / "build" / "findings", metavar="FOLDER")
    fuzzer.add_argument("--corpus", type=Path, metavar="FOLDER", help="keep small files of each kind here")
    fuzzer.set_defaults(run=fuzz)
    soaker = parts.add_parser("soak", help=soak.__doc__)
    soaker.add_argument("--steps", type=int, default=10_000)
    soaker.set_defaults(run=soak)
    saver = parts.add_parser("saves", help=saves.__doc__)
    saver.add_argument("--kills", type=int, default=100)
    saver.add_argument("--seed", type=int, default=0)
    saver.set_defaults(run=saves)
    parts.add_parser("numerics", help=numerics.__doc__).set_defaults(run=numerics)
    arguments = parser.parse_args(given)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
