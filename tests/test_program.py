"""Programs are values: they print as formulas, are costed exactly, and their adjoints are programs too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import generic_cores
from matrix import SHAPE

import adntn
from adntn.arrays import namespace
from adntn.program.cost import cost
from adntn.program.ir import Contract, Program
from adntn.program.run import run

Topology = Callable[[str], adntn.Options]


def programs(generator: adntn.Generator) -> list[Program]:
    return [generator.program, generator.adjoint.forward, generator.adjoint.backward]


def inputs_of(program: Program) -> dict[str, Any]:
    shapes = {tensor.name: tuple(leg.size for leg in tensor.legs) for tensor in program.inputs}
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape) for name, shape in shapes.items()}


def by_einsum(program: Program, arrays: dict[str, Any]) -> list[Any]:
    """Run a program by what its formulas say: an einsum for each contraction."""
    values = dict(arrays)
    functions = namespace("numpy", False)

    for step in program.steps:
        operands = [
            np.asarray(values[tensor.name]).reshape([leg.size for leg in tensor.legs]) for tensor in step.inputs
        ]
        if isinstance(step, Contract):
            number = {leg: place for place, leg in enumerate(dict.fromkeys([*step.left.legs, *step.right.legs]))}
            subscripts = [[number[leg] for leg in tensor.legs] for tensor in (*step.inputs, step.out)]
            values[step.out.name] = np.einsum(operands[0], subscripts[0], operands[1], subscripts[1], subscripts[2])
        elif step.kind == "add":
            values[step.out.name] = operands[0] + operands[1]
        elif step.activation is not None and step.kind == "map":
            values[step.out.name] = step.activation.function(functions, operands[0])
        elif step.activation is not None:
            values[step.out.name] = operands[0] * step.activation.derivative(functions, operands[1])
    return [values[tensor.name] for tensor in program.outputs]


def test_programs_compute_what_their_formulas_say(topology: Topology) -> None:
    for program in programs(topology("tanh")(SHAPE)):
        arrays = inputs_of(program)
        found = run(program, arrays, namespace("numpy", False))
        for one, expected in zip(found, by_einsum(program, arrays), strict=True):
            np.testing.assert_allclose(one.reshape(-1), expected.reshape(-1), rtol=1e-10, atol=1e-10)


def test_every_step_is_a_line_that_names_what_it_reads(topology: Topology) -> None:
    for program in programs(topology("tanh")(SHAPE)):
        *lines, last = str(program).splitlines()
        assert last.startswith("return ")
        for step, line in zip(program.steps, lines, strict=True):
            assert line.startswith(f"{step.out.name}")
            assert all(tensor.name in line for tensor in step.inputs)


def test_a_small_program_reads_as_the_formulas_of_the_mathematics() -> None:
    generator = adntn.LowRank((3, 4), rank=2, last_activation="tanh")
    assert str(generator.program).splitlines() == [
        "Z0[s0.0 s0.1] = sum_{rank} left[s0.0 rank] right[rank s0.1]",
        "X0[s0.0 s0.1] = tanh(Z0)",
        "scaled X0[s0.0 s0.1] = X0[s0.0 s0.1] scale[]",
        "return scaled X0",
    ]
    assert str(generator.adjoint.backward).splitlines() == [
        "X0_bar[s0.0 s0.1] = scaled X0_bar[s0.0 s0.1] conj(scale[])",
        "scale_bar[] = sum_{s0.0 s0.1} conj(X0[s0.0 s0.1]) scaled X0_bar[s0.0 s0.1]",
        "Z0_bar[s0.0 s0.1] = X0_bar * conj(tanh'(y = X0))",
        "left_bar[s0.0 rank] = sum_{s0.1} Z0_bar[s0.0 s0.1] conj(right[rank s0.1])",
        "right_bar[rank s0.1] = sum_{s0.0} conj(left[s0.0 rank]) Z0_bar[s0.0 s0.1]",
        "return left_bar, right_bar, scale_bar",
    ]


@pytest.mark.parametrize("activation", [one for one in adntn.ACTIVATIONS.values() if not one.is_identity], ids=str)
def test_one_of_input_and_output_of_an_activation_is_kept(activation: adntn.Activation) -> None:
    generator = adntn.LowRank((6, 4), rank=2, last_activation=activation)
    kept = {tensor.name for tensor in generator.adjoint.residuals}
    # X0, which the adjoint of the scale needs, and Z0 where the derivative is written from the input
    assert kept == ({"X0"} if activation.derivative_of == "output" else {"X0", "Z0"})


def test_operations_are_those_that_the_library_is_asked_for(topology: Topology) -> None:
    generator = topology("identity")(SHAPE)
    asked = 0

    def matmul(left: Any, right: Any) -> Any:
        nonlocal asked
        result = np.matmul(left, right)
        summed = left.shape[-1]
        asked += (2 * summed if summed > 1 else 1) * result.size
        return result

    run(generator.program, generic_cores(generator), replace(namespace("numpy", False), matmul=matmul))
    scalings = sum(step.out.size for step in generator.program.steps if step.form.kind == "scalar")
    assert cost(generator.program).operations == asked + scalings


def test_costs_scale_with_the_size_of_numbers(topology: Topology) -> None:
    program = topology("tanh")(SHAPE).program
    single, double = cost(program, 4), cost(program, 8)
    assert double.operations == single.operations
    assert (double.bytes_moved, double.peak_bytes) == (2 * single.bytes_moved, 2 * single.peak_bytes)


def test_the_costs_of_a_product_of_matrices_are_those_of_the_textbook() -> None:
    program = adntn.LowRank((30, 40), rank=5).program
    last = program.steps[-1]
    assert isinstance(last, Contract)
    alone = cost(Program(last.inputs, (last,), (last.out,)), 4)
    assert alone.operations == 2 * 30 * 40 * 5
    assert alone.bytes_moved == alone.peak_bytes == 4 * (30 * 5 + 5 * 40 + 30 * 40)


def test_gradients_cost_a_small_constant_times_the_weight() -> None:
    for constructor in (adntn.TTN, adntn.AugmentedTTN, adntn.MERA):
        report = constructor((4096, 4096), bond=2, activation="tanh").report()
        assert report.forward_and_backward.operations < 6 * report.forward.operations
        assert report.forward.peak_bytes < 3 * 4 * report.weights


def test_results_are_let_go_after_their_last_use(topology: Topology) -> None:
    for program in programs(topology("gelu")(SHAPE)):
        released = [name for names in program.releases for name in names]
        assert len(released) == len(set(released))
        kept = {tensor.name for tensor in program.outputs}
        everything = {tensor.name for step in program.steps for tensor in (*step.inputs, step.out)}
        assert set(released) == everything - kept
        for place, names in enumerate(program.releases):
            later = {tensor.name for step in program.steps[place + 1 :] for tensor in step.inputs}
            assert not later & set(names)
