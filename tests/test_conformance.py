"""Every array library that can be used here runs through the suite that third parties run their backends through."""

from __future__ import annotations

import pytest
from helpers import needs

from adntn.testing import CASES, BackendConformance
from adntn.verification.cases import Case


@pytest.fixture(autouse=True)
def _usable(request: pytest.FixtureRequest) -> None:
    needs(request.cls.backend)


class TestNumPy(BackendConformance):
    backend = "numpy"


class TestArrayAPIStrict(BackendConformance):
    """A library without a plug-in: it works through autoray and the explicit adjoint alone."""

    backend = "array_api_strict"


class TestDask(BackendConformance):
    """Another one, whose arrays are computed late and in chunks: slowly, so that it runs some of the cases."""

    backend = "dask"

    @pytest.mark.parametrize("differentiation", ["adjoint"])
    @pytest.mark.parametrize(("case", "dtype"), CASES[::5], ids=str)
    def test_weight_and_gradients_agree(self, case: Case, dtype: str, differentiation: str) -> None:
        super().test_weight_and_gradients_agree(case, dtype, differentiation)


class TestTorch(BackendConformance):
    backend = "torch"


class TestJAX(BackendConformance):
    backend = "jax"


class TestCuPy(BackendConformance):
    backend = "cupy"
