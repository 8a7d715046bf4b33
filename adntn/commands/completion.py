"""`adntn completion`: what a shell needs to complete the command, made from the parser by shtab."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from adntn.commands.output import subcommand, writable

SUMMARY = "print a script with which a shell completes the command"
EXAMPLES = """examples:
  adntn completion bash > ~/.local/share/bash-completion/completions/adntn
  adntn completion zsh > ~/.zfunc/_adntn    # with ~/.zfunc in fpath, before compinit
  adntn completion fish > ~/.config/fish/completions/adntn.fish

It needs shtab: pip install "adntn[completion]"
"""
SHELLS = ("bash", "zsh", "fish")


def add(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subcommand(subcommands, "completion", SUMMARY, EXAMPLES)
    parser.add_argument("shell", choices=SHELLS, help="whose script")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    try:
        import shtab  # noqa: PLC0415
    except ImportError as error:
        raise ImportError('shtab is not installed; try: pip install "adntn[completion]"') from error
    from adntn.cli import parser  # noqa: PLC0415  (it lists this command)

    whole = parser()
    for action in _actions(whole):
        if action.type in {Path, writable}:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(whole, arguments.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of all its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _actions(subparser)
