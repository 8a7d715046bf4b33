"""Rules of `adntn compress`: which weights of a file are generated, and how, as one writes them in a shell."""

from __future__ import annotations

import argparse
import ast
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from adntn.arrays import DTYPES
from adntn.files.contents import Kind
from adntn.files.file import WEIGHT
from adntn.files.values import SHOWN
from adntn.topologies import BY_NAME, Options

#: Instead of a topology: what matches stays dense.
DENSE = "dense"


@dataclass(frozen=True)
class Rule:
    """A pattern of names, and how what it matches is generated; None for what stays dense."""

    pattern: str
    options: Options | None

    def matches(self, name: str) -> bool:
        """Return whether the pattern means a weight: its name, or that without ".weight" at the end."""
        return self.is_name_of(name) or any(fnmatchcase(one, self.pattern) for one in _names(name))

    def is_name_of(self, name: str) -> bool:
        """Return whether the pattern is a weight's own name."""
        return self.pattern in _names(name)


def rule(text: str) -> Rule:
    """Return the rule in a text such as "features.*=MERA,bond=2,activation=silu" or "features.0=dense".

    >>> rule("classifier.*=TTN,bond=(8,4),last_activation=tanh").options
    TTN(bond=(8, 4), last_activation='tanh')

    Raises:
        argparse.ArgumentTypeError: if there is none in it.
    """
    pattern, separator, made = text.partition("=")
    name, _, options = made.partition(",")
    if not separator or not pattern or (name not in BY_NAME and made != DENSE):
        raise argparse.ArgumentTypeError(
            f"wants PATTERN=TOPOLOGY,option=value,... or PATTERN={DENSE}, with a topology of {', '.join(BY_NAME)};"
            f" got {text!r}"
        )
    if made == DENSE:
        return Rule(pattern, None)
    try:
        call = ast.parse(f"options({options})", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
            raise ValueError("every option is name=value")
        if any(one.arg is None for one in call.keywords):
            raise ValueError("every option is name=value")
        return Rule(pattern, BY_NAME[name].options(**{str(one.arg): _value(one.value) for one in call.keywords}))
    except (MemoryError, RecursionError):  # how Python refuses what is nested too deep
        raise argparse.ArgumentTypeError(f"{text[:SHOWN]!r}...: nested too deep") from None
    except (SyntaxError, TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {getattr(error, 'msg', error)}") from None


def chosen(tensors: Mapping[str, Kind], rules: Sequence[Rule]) -> dict[str, Options]:
    """Return how each weight is generated that the rules choose; the first rule that matches a name decides.

    Patterns pass over what is no weight: tensors of one axis or none, and those of integers. A whole name does not.

    Raises:
        ValueError: if a rule matches nothing, or nothing is chosen.
    """
    for one in rules:
        if not any(one.matches(name) for name in tensors):
            closest = difflib.get_close_matches(one.pattern, [*tensors], n=3, cutoff=0.0)
            raise ValueError(f"--rule: {one.pattern!r} matches nothing; the closest names are {', '.join(closest)}")
    found = dict(_chosen(tensors, rules))
    if not found:
        raise ValueError("--rule: the rules choose nothing but tensors of one axis, or of integers")
    return found


def _chosen(tensors: Mapping[str, Kind], rules: Sequence[Rule]) -> Iterator[tuple[str, Options]]:
    for name, kind in tensors.items():
        first = next((one for one in rules if one.matches(name)), None)
        is_weight = len(kind.shape) > 1 and kind.dtype in DTYPES
        if first is not None and first.options is not None and (is_weight or first.is_name_of(name)):
            if kind.dtype not in DTYPES:
                raise ValueError(f"tensor {name!r} holds no floating-point numbers, but {kind.dtype}")
            yield name, first.options


def _names(name: str) -> tuple[str, ...]:
    return name, name.removesuffix(f".{WEIGHT}")  # which rules need not say


def _value(node: ast.expr) -> object:
    """Return a literal; a bare word is a string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(item) for item in node.elts)
    return ast.literal_eval(node)
