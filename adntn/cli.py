"""The command `adntn`: subcommands live in `adntn.commands`; here they become one command with exit codes.

0: done, and what was asked is so. 1: done, and it is not so. 2: bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from adntn import __version__
from adntn.commands import COMMANDS

EXAMPLES = """examples:
  adntn backends
  adntn compress model.safetensors small.safetensors --rule 'classifier.*=TTN,bond=4'
  adntn verify --backends numpy,torch --html agreement.html
  adntn calibrate --backends numpy,torch
  adntn verify --help
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    whole = argparse.ArgumentParser(
        prog="adntn",
        description="Neural-network weights generated from small nonlinear tensor networks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"adntn {__version__}")
    subcommands = whole.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subcommands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default those of the process; return its exit code (130: Ctrl-C)."""
    parsed = parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"adntn {parsed.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"adntn {parsed.command}: stopped, nothing was written", file=sys.stderr)
        return 130
    return code
