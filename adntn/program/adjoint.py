"""The adjoint of a program: the same two kinds of step in reverse (mathematics, section 3).

For c = sum a b, a_bar = sum c_bar conj(b) and b_bar = sum conj(a) c_bar; for x = f(z), z_bar = x_bar conj(f'). Every
environment of a block comes from the reversed contraction path, at a small constant times the cost of the block.
Gradients of complex cores are with respect to the conjugate, as in torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from adntn.program.ir import Contract, Pointwise, Program, Step, Tensor


@dataclass(frozen=True)
class Adjoint:
    """A program with its reverse.

    Attributes:
        forward: the program, returning its results and then the residuals.
        backward: from the program's inputs, the residuals and the seeds to the gradients.
        residuals: the intermediate results that the reverse needs.
        seeds: the adjoints of the results, in their order.
        reached: the inputs that have a gradient, in the order of the gradients; all that the results depend on.
    """

    forward: Program
    backward: Program
    residuals: tuple[Tensor, ...]
    seeds: tuple[Tensor, ...]
    reached: tuple[Tensor, ...]


def adjoint(program: Program) -> Adjoint:
    """Return the adjoint of a program, whose outputs are results of its steps."""
    seeds = tuple(Tensor(_bar(result.name), result.legs) for result in program.outputs)
    names = {tensor.name for tensor in program.inputs}
    collected = {result.name: seed for result, seed in zip(program.outputs, seeds, strict=True)}
    steps: list[Step] = []
    for step in reversed(program.steps):
        arriving = collected.pop(step.out.name, None)
        if arriving is None:
            continue
        for target, made in _reversed(step, Tensor(arriving.name, step.out.legs)):
            steps += _add(target, made, collected)
    reached = tuple(tensor for tensor in program.inputs if tensor.name in collected)
    known = names | {step.out.name for step in steps} | {seed.name for seed in seeds}
    residuals = {tensor.name: tensor for step in steps for tensor in step.inputs if tensor.name not in known}
    kept = tuple(residuals.values())
    return Adjoint(
        program.returning((*program.outputs, *kept)),
        Program((*program.inputs, *kept, *seeds), tuple(steps), tuple(collected[tensor.name] for tensor in reached)),
        kept,
        seeds,
        reached,
    )


def _bar(name: str) -> str:
    return f"{name}_bar"


def _reversed(step: Step, arriving: Tensor) -> list[tuple[Tensor, Step]]:
    """Return, for each input of a step, the step that makes its share of the adjoint (named later)."""
    if isinstance(step, Contract):
        (left, right), (conjugate_left, conjugate_right) = step.inputs, step.conjugate
        if conjugate_left or conjugate_right:
            raise NotImplementedError("the adjoint of an adjoint program is not defined")
        return [
            (left, Contract(left, arriving, right, (False, True))),
            (right, Contract(right, left, arriving, (True, False))),
        ]
    (before,) = step.inputs
    if step.kind != "map" or step.activation is None:
        raise NotImplementedError("the adjoint of an adjoint program is not defined")
    kept = step.out if step.activation.derivative_of == "output" else before
    return [(before, Pointwise("adjoint", before, (arriving, kept), step.activation))]


def _add(target: Tensor, step: Step, collected: dict[str, Tensor]) -> list[Step]:
    """Give the step's result its name; a second share of the same adjoint is added to the first."""
    earlier = collected.get(target.name)
    if earlier is None:
        made = _renamed(step, _bar(target.name))
        collected[target.name] = made.out
        return [made]
    count = earlier.name.count("'") + 1
    share = _renamed(step, f"{_bar(target.name)} (share {count})")
    total = Tensor(f"{_bar(target.name)}{chr(39) * count}", earlier.legs)
    collected[target.name] = total
    return [share, Pointwise("add", total, (earlier, Tensor(share.out.name, earlier.legs)))]


def _renamed(step: Step, name: str) -> Step:
    out = Tensor(name, step.out.legs)
    if isinstance(step, Contract):
        return Contract(out, step.left, step.right, step.conjugate)
    return Pointwise(step.kind, out, step.inputs, step.activation)
