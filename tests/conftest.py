"""Fixtures that run a test for each row of a matrix."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
from helpers import needs
from hypothesis import settings
from matrix import LIBRARIES, ON_LIBRARIES, TOPOLOGIES

import adntn
from adntn.backends import DIFFERENTIATIONS

#: Scripts that tests start in processes of their own, and what needs torch or JAX where that is not installed.
collect_ignore = [f"support/{name}.py" for name in ("restarted_training", "resumed_training", "spread_jax")]
collect_ignore += [
    "support/spread_training.py",
    *(["support/scheduled.py", "support/worked.py"] if find_spec("torch") is None else []),
    *(["support/jaxprs.py"] if find_spec("jax") is None else []),
]

# The same examples in every run; HYPOTHESIS_PROFILE=explore looks for new ones, "long" for an hour.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.register_profile("long", deadline=None, max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(params=TOPOLOGIES.values(), ids=TOPOLOGIES.keys())
def topology(request: pytest.FixtureRequest) -> Callable[[str], adntn.Options]:
    """Each topology: a function from an activation to options."""
    row: Callable[[str], adntn.Options] = request.param
    return row


@pytest.fixture(params=adntn.ACTIVATIONS)
def activation(request: pytest.FixtureRequest) -> str:
    """Each activation's name."""
    name: str = request.param
    return name


@pytest.fixture(params=DIFFERENTIATIONS)
def differentiation(request: pytest.FixtureRequest) -> str:
    """Each path of differentiation's name."""
    name: str = request.param
    return name


@contextmanager
def prepared(library: str) -> Iterator[None]:
    """The library, if it can be used here, in double precision where that is an option."""
    needs(library)
    with adntn.backend(library).double_precision():
        yield


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each array library that can be used here."""
    with prepared(request.param):
        yield request.param


@pytest.fixture(params=ON_LIBRARIES, ids=" ".join)
def library_and_topology(request: pytest.FixtureRequest) -> Iterator[tuple[str, Callable[[str], adntn.Options]]]:
    """Each array library that can be used here with each topology."""
    library, topology = request.param
    with prepared(library):
        yield library, TOPOLOGIES[topology]
