"""Write what checks have found to the folder `reliability` beside this file, for the page.

With reports of the environments in tox.ini: `versions` takes pytest's `--junitxml oldest.xml`, `coverage` the file of
`coverage json`, `mutation` what `mutmut results --all true` prints, and `supply` the bill of materials that
`cyclonedx-py` writes and the `--format json` of pip-audit.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from adntn.atomic import whole_file
from adntn.benchmarking.machine import versions

FOLDER = Path(__file__).with_name("reliability")
#: Why mutants survive: reasons, and what they are reasons for as "module.function number".
SURVIVORS = Path(__file__).with_name("survivors.toml")
ROOT = Path(__file__).parents[2]
#: Whose versions say under which conditions a check was made.
DISTRIBUTIONS = (
    *("adntn", "autoray", "numpy", "scipy", "safetensors", "hypothesis"),
    *("torch", "triton", "lightning", "onnxscript", "peft", "transformers"),
    *("jax", "equinox", "flax", "optax", "quimb", "tensornetwork-ng", "matplotlib"),
)
PACKAGES = ("adntn", "adntn_torch", "adntn_jax")


def write(name: str, what: str, command: str, results: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Write what a check found, with the versions of this environment unless others are given."""
    found = {"python": platform.python_version(), **versions(DISTRIBUTIONS)}
    record = {"what": what, "command": command, "results": list(results), "versions": found, **more}
    FOLDER.mkdir(exist_ok=True)
    with whole_file(FOLDER / f"{name}.json") as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def tested(report: Path) -> dict[str, Any]:
    """Return how many tests a JUnit report counts, by how they ended; run it in the environment of the tests."""
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "skipped", "failures", "errors")}
    failed = counts["failures"] + counts["errors"]
    return {"passed": counts["tests"] - counts["skipped"] - failed, "failed": failed, "skipped": counts["skipped"]}


def check_versions(arguments: argparse.Namespace) -> None:
    """Write how the tests end with the oldest versions; the report is named as the environment."""
    name = arguments.report.stem
    write(
        f"versions-{name}",
        f"Tests with the {name} versions that the metadata admits",
        f"tox run -e {name} -- --every {arguments.every} --junitxml {name}.xml",
        [tested(arguments.report)],
    )


def packages(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return a row for each package of a report of `coverage json`: lines, branches, and the share of both that ran."""
    for package in PACKAGES:
        found = [
            one["summary"]
            for path, one in report["files"].items()
            if f"/{package}/" in f"/{path.replace(chr(92), '/')}"
        ]
        total = {key: sum(one[key] for one in found) for key in found[0] if not key.startswith("percent")}
        run = total["covered_lines"] + total["covered_branches"]
        share = 100 * run / (total["num_statements"] + total["num_branches"])
        yield {
            "package": package,
            "lines": total["num_statements"],
            "lines not run": total["missing_lines"],
            "branches": total["num_branches"],
            "branches not taken": total["missing_branches"],
            "run, %": round(share, 1),
        }


def check_coverage(arguments: argparse.Namespace) -> None:
    """Write what share of each package's lines and branches the tests run."""
    report = json.loads(arguments.report.read_text(encoding="utf-8"))
    write("coverage", "Lines and branches that the tests run", arguments.command, list(packages(report)))


def mutants(text: str) -> list[dict[str, Any]]:
    """Return a row for each module: how its mutants ended, of what `mutmut results --all true` prints."""
    ended: dict[str, Counter[str]] = {}
    for line in text.splitlines():
        if found := re.fullmatch(r"\s*(\S+)\.x\S*__mutmut_\d+: (.+)", line):
            ended.setdefault(found[1], Counter())[found[2]] += 1
    known = {"killed": "killed", "survived": "survived", "timeout": "timeout", "no tests": "no test runs it"}
    return [
        {
            "module": module,
            "mutants": counts.total(),
            **{word: counts[key] for key, word in known.items()},
            "not run": sum(number for key, number in counts.items() if key not in known),
        }
        for module, counts in sorted(ended.items())
    ]


def survivors(text: str, reasons: Mapping[str, Sequence[str]]) -> str:
    r"""Return a list of the mutants that no test tells from the original, by reason.

    >>> text = "adntn.program.path.x_quick_path__mutmut_7: survived\n adntn.program.ir.x_a__mutmut_1: no tests"
    >>> print(survivors(text, {"another path, the same weight": ["path.quick_path 7"]}))
    Survived, or run by none of these tests, and why:
    <BLANKLINE>
    - another path, the same weight: path.quick_path 7
    - not looked into: ir.a 1

    Raises:
        ValueError: if a mutant that has a reason did not survive.
    """
    found = re.findall(r"adntn\.program\.(\S+)__mutmut_(\d+): (?:survived|no tests)$", text, flags=re.M)
    names = [f"{re.sub(r'[.]x[_ǁ]', '.', name).replace('ǁ', '.')} {number}" for name, number in found]
    explained = [name for known in reasons.values() for name in known]
    if gone := sorted({*explained} - {*names}):
        raise ValueError(f"{SURVIVORS.name} has reasons for mutants that did not survive: {', '.join(gone)}")
    rest = {"not looked into": [name for name in names if name not in explained]}
    rows = (f"- {why}: {', '.join(known)}" for why, known in (dict(reasons) | rest).items() if known)
    return "\n".join(["Survived, or run by none of these tests, and why:", "", *rows])


def check_mutation(arguments: argparse.Namespace) -> None:
    """Write how many mutants of each module the tests tell from the original, and why they do not tell the others."""
    text = arguments.report.read_text(encoding="utf-8")
    reasons = tomllib.loads(SURVIVORS.read_text(encoding="utf-8"))
    rows = mutants(text)
    total = {"module": "all", **{key: sum(row[key] for row in rows) for key in rows[0] if key != "module"}}
    what = "Changes of one token in the programs' modules, and whether a test fails"
    write("mutation", what, arguments.command, [*rows, total], notes=[survivors(text, reasons)])


def check_supply(arguments: argparse.Namespace) -> None:
    """Write how many distributions are pinned, listed in a bill of materials, and known to be vulnerable."""
    pins = [line for line in (ROOT / "tests" / "constraints.txt").read_text("utf-8").splitlines() if "==" in line]
    row: dict[str, Any] = {"distributions pinned": len(pins)}
    row["in the bill of materials"] = len(json.loads(arguments.bill.read_text("utf-8"))["components"])
    if arguments.audit is not None:
        audited = json.loads(arguments.audit.read_text("utf-8"))["dependencies"]
        looked_up = [one for one in audited if "vulns" in one]
        row["looked up in the database of vulnerabilities"] = len(looked_up)
        if looked_up:
            row["with a known vulnerability"] = [one["name"] for one in looked_up if one["vulns"]] or "none"
        else:
            row["with a known vulnerability"] = "not known: the database was not to be reached"
    write("supply", "What continuous integration installs", "tox run -e audit", [row])


def main() -> None:
    """Run one of the subcommands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, check in (("versions", check_versions), ("coverage", check_coverage), ("mutation", check_mutation)):
        command = commands.add_parser(name, help=check.__doc__)
        command.add_argument("report", type=Path)
        command.set_defaults(check=check)
        if name == "versions":
            command.add_argument("--every", type=int, default=7, help="the rows that were run (default: %(default)s)")
        else:
            command.add_argument("--command", default=f"tox run -e {name}", help="what was run (default: %(default)s)")
    command = commands.add_parser("supply", help=check_supply.__doc__)
    command.add_argument("bill", type=Path, help="of cyclonedx-py")
    command.add_argument("audit", type=Path, nargs="?", help="of pip-audit; without it nothing is said of it")
    command.set_defaults(check=check_supply)
    arguments = parser.parse_args()
    arguments.check(arguments)


if __name__ == "__main__":
    main()
