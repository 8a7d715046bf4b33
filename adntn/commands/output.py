"""What subcommands share: how they are declared, the console they print to, progress, lists of names, whole files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adntn.atomic import whole_file

if TYPE_CHECKING:
    from rich.console import Console

#: How wide a table may be where there is no terminal.
WIDTH = 200


def subcommand(
    subcommands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    """Return the parser of a subcommand, with a one-line summary and examples at the end of its help."""
    return subcommands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def console(*, stderr: bool = False) -> Console:
    """Return the console of rich; into a file or a pipe, lines are not folded to a terminal's width."""
    from rich.console import Console  # noqa: PLC0415  (importing the command line must stay light)

    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH)


@contextmanager
def shown_progress(task: str) -> Iterator[Callable[[int, int, str], None] | None]:
    """Show a bar on a terminal, and nothing elsewhere.

    The function wants the number of things done, the number of all, and the name of the one that comes next.
    """
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

    errors = console(stderr=True)
    if not errors.is_terminal:
        yield None
        return
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        shown = bar.add_task(task, total=None)

        def show(done: int, count: int, following: str) -> None:
            bar.update(shown, completed=done, total=count, description=following or "done")

        yield show


def names(text: str) -> tuple[str, ...]:
    """Return the names in a list separated by commas.

    >>> names("numpy, torch")
    ('numpy', 'torch')

    Raises:
        argparse.ArgumentTypeError: if there is none.
    """
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"wants names separated by commas, got {text!r}")
    return found


def writable(text: str) -> Path:
    """Return the path of a file to write later.

    Raises:
        argparse.ArgumentTypeError: if it is a directory, or its directory is not there: better now than after the work.
    """
    path = Path(text)
    if path.is_dir() or not path.name:
        raise argparse.ArgumentTypeError(f"{text!r} is a directory")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the directory {str(path.parent)!r} does not exist")
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole or not at all: to a temporary one beside it, which then takes its place."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
