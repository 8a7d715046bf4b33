"""Training: stopping anywhere changes nothing, files are whole, augmentation and rates are what they say."""

from __future__ import annotations

import math
import signal
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import adntn
import adntn_torch
import training
from data import Dataset
from training import InterruptedRunError, Recipe, Stop, Trained, accuracy, augmented, stop_on_interrupt, train

RECIPE = Recipe(epochs=3, batch=8, seed=5)
STEPS = 9


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def dataset() -> Dataset:
    """Images that are moved and mirrored, so many that three batches are full and one is not."""
    labels = torch.arange(29) % 3
    images = random(29, 2, 6, 6) + labels[:, None, None, None]
    return Dataset("fake", images, labels, images[:9], labels[:9], ("a", "b", "c"), shift=1, mirror=True)


def network(seed: int = 0) -> nn.Module:
    """Return a network with all that has a state: running statistics, random dropout, generated weights."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        adntn_torch.Linear(64, 16, topology=adntn.TTN.options(bond=2, activation="tanh"), seed=seed),
        nn.Dropout(0.2),
        nn.Linear(16, 3),
    )


def run(model: nn.Module, dataset: Dataset, path: Path, *, recipe: Recipe = RECIPE, **options: Any) -> Trained:
    return train(model, dataset, recipe, **{"job": "a", "checkpoint": path, "resume": False, "stop": Stop(), **options})


def stopped(model: nn.Module, dataset: Dataset, path: Path, *, after: int, resume: bool = False) -> None:
    """Train until so many steps are done; then ask to stop."""
    stop = Stop()

    def ask(step: int, loss: float, seconds: float) -> None:
        stop.requested = step >= after

    with pytest.raises(InterruptedRunError):
        run(model, dataset, path, resume=resume, stop=stop, on_step=ask)


def assert_same(model: nn.Module, other: nn.Module) -> None:
    """Assert that all parameters and statistics are bit-equal."""
    state, wanted = model.state_dict(), other.state_dict()
    assert state.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(state[name], wanted[name])] == []


@pytest.fixture
def undisturbed(dataset: Dataset, tmp_path: Path) -> tuple[nn.Module, Trained]:
    model = network()
    return model, run(model, dataset, tmp_path / "undisturbed.pt")


# Stopping and going on


@pytest.mark.parametrize("after", range(STEPS))
def test_a_run_stopped_at_any_step_and_resumed_gives_the_numbers_of_an_undisturbed_one(
    dataset, tmp_path, undisturbed, after
):
    path = tmp_path / "checkpoint.pt"
    stopped(network(), dataset, path, after=after)
    torch.manual_seed(99)
    resumed, seen = network(seed=1), []
    trained = run(resumed, dataset, path, resume=True, on_step=lambda *step: seen.append(step))
    assert_same(resumed, undisturbed[0])
    assert trained.losses == undisturbed[1].losses
    assert [step for step, *_ in seen] == list(range(after, STEPS + 1))
    assert math.isnan(seen[0][1])
    assert all(earlier[2] <= later[2] for earlier, later in pairwise(seen))


def test_a_run_stopped_again_and_again_gives_the_numbers_of_an_undisturbed_one(dataset, tmp_path, undisturbed):
    path = tmp_path / "checkpoint.pt"
    for after in range(1, STEPS):
        stopped(network(seed=after - 1), dataset, path, after=after, resume=after > 1)
    resumed = network(seed=50)
    assert run(resumed, dataset, path, resume=True).losses == undisturbed[1].losses
    assert_same(resumed, undisturbed[0])


@pytest.mark.parametrize("after", [1, 3, 5, 8])
def test_a_run_that_was_killed_goes_on_from_its_last_whole_epoch(dataset, tmp_path, undisturbed, after):
    path = tmp_path / "checkpoint.pt"

    def kill(step: int, loss: float, seconds: float) -> None:
        if step == after:
            raise SystemExit

    with pytest.raises(SystemExit):
        run(network(), dataset, path, on_step=kill)
    resumed, steps = network(), []
    trained = run(resumed, dataset, path, resume=True, on_step=lambda step, *_: steps.append(step))
    # A checkpoint follows its epoch's last call of `on_step`.
    assert steps[0] == (after - 1) // 3 * 3
    assert trained.losses == undisturbed[1].losses
    assert_same(resumed, undisturbed[0])


def test_the_seconds_before_a_stop_are_counted(dataset, tmp_path, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(clock)))
    whole = run(network(), dataset, tmp_path / "undisturbed.pt").seconds
    stopped(network(), dataset, tmp_path / "checkpoint.pt", after=4)
    rest = run(network(), dataset, tmp_path / "checkpoint.pt", resume=True).seconds
    assert rest == whole == STEPS + 1


@pytest.mark.parametrize("options", [{"resume": False}, {"resume": True, "job": "b"}])
def test_a_checkpoint_is_left_alone_without_resume_and_by_other_runs(dataset, tmp_path, undisturbed, options):
    stopped(network(), dataset, tmp_path / "checkpoint.pt", after=4)
    model = network()
    assert run(model, dataset, tmp_path / "checkpoint.pt", **options).losses == undisturbed[1].losses
    assert_same(model, undisturbed[0])


def test_a_damaged_checkpoint_is_named_and_kept(dataset, tmp_path):
    path = tmp_path / "checkpoint.pt"
    stopped(network(), dataset, path, after=4)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint\.pt' is damaged or no checkpoint"):
            run(network(), dataset, path, resume=True)
        assert path.read_bytes() == content
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt' is no checkpoint of this library"):
        run(network(), dataset, path, resume=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_asks_and_the_second_stops_at_once(number):
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    with stop_on_interrupt() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {kind: signal.getsignal(kind) for kind in before} == before


# What a step does


@pytest.mark.parametrize(("shift", "mirror"), [(0, False), (1, False), (0, True), (1, True)])
def test_augmented_images_are_moved_and_mirrored_by_all_that_is_allowed_and_nothing_else(shift, mirror):
    images = random(200, 2, 5, 6)
    found = augmented(images, shift, mirror, torch.Generator().manual_seed(3))
    moves: Counter[tuple[int, int, bool]] = Counter()
    for image, new in zip(images, found, strict=True):
        fits = [
            (down, right, flipped)
            for down in range(-shift, shift + 1)
            for right in range(-shift, shift + 1)
            for flipped in (False, True)[: 1 + mirror]
            if torch.equal(new, moved(image, down, right, flipped))
        ]
        assert len(fits) == 1
        moves[fits[0]] += 1
    assert len(moves) == (2 * shift + 1) ** 2 * (1 + mirror)
    if mirror:
        assert 75 < sum(count for (_, _, flipped), count in moves.items() if flipped) < 125


def moved(image: torch.Tensor, down: int, right: int, flipped: bool) -> torch.Tensor:
    """Return an image moved, and mirrored if wanted, one pixel at a time."""
    _, height, width = image.shape
    result = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            from_row, from_column = row - down, (width - 1 - column if flipped else column) - right
            if 0 <= from_row < height and 0 <= from_column < width:
                result[:, row, column] = image[:, from_row, from_column]
    return result


def test_every_epoch_takes_images_once_in_its_own_order(dataset, tmp_path):
    taken: list[tuple[float, ...]] = []

    class Spy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            taken.append(tuple(x[:, 0].tolist()))
            return super().forward(x)

    numbered = replace(dataset, train_images=torch.arange(29.0)[:, None], shift=0, mirror=False)
    run(Spy(1, 3), numbered, tmp_path / "checkpoint.pt")
    epochs = [sum(taken[first : first + 3], ()) for first in (0, 3, 6)]
    assert [len(set(epoch)) for epoch in epochs] == [24, 24, 24]
    assert len(set(epochs)) == 3


def test_an_epochs_loss_is_the_mean_of_its_steps(dataset, tmp_path):
    seen: list[float] = []
    trained = run(network(), dataset, tmp_path / "checkpoint.pt", on_step=lambda step, loss, _: seen.append(loss))
    epochs = [seen[1:4], seen[4:7], seen[7:10]]
    assert trained.losses == pytest.approx([sum(losses) / 3 for losses in epochs], rel=1e-12)
    assert len(seen) == STEPS + 1


def test_images_fewer_than_a_batch_are_one_step(dataset, tmp_path):
    few = replace(dataset, train_images=dataset.train_images[:5], train_labels=dataset.train_labels[:5])
    assert RECIPE.steps(few) == 3
    assert len(run(network(), few, tmp_path / "checkpoint.pt").losses) == 3


@pytest.mark.parametrize("core_rates", [{}, {"5*": 0.02, "*": 0.3}], ids=["one rate", "rates of layers"])
@pytest.mark.parametrize("clip", [1e9, 0.05])
def test_training_is_adamw_with_a_warm_up_a_cosine_and_rates_of_its_own_for_cores(dataset, tmp_path, clip, core_rates):
    """A whole run again, with the update rule written out."""
    recipe = replace(RECIPE, clip=clip, warmup=0.3, weight_decay=0.1, core_rates=core_rates)
    plain = replace(
        dataset, shift=0, mirror=False, train_images=dataset.train_images[:8], train_labels=torch.arange(8) % 3
    )
    model, twin = (network().double().eval() for _ in range(2))
    for module in [*model.modules(), *twin.modules()]:
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain = replace(plain, train_images=plain.train_images.double())
    run(model, plain, tmp_path / "checkpoint.pt", recipe=recipe)

    twin.train()
    named = dict(twin.named_parameters())
    first = {name: torch.zeros_like(value) for name, value in named.items()}
    second = {name: torch.zeros_like(value) for name, value in named.items()}
    for step, factor in enumerate([1.0, 1.0, 0.5]):  # of three steps one rises; the cosine begins at its peak
        gradients = dict(
            zip(
                named,
                torch.autograd.grad(
                    nn.functional.cross_entropy(twin(plain.train_images), plain.train_labels), named.values()
                ),
                strict=True,
            )
        )
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        with torch.no_grad():
            for name, value in named.items():
                is_core = ".cores." in f".{name}"
                rate = factor * (core_rates.get("5*", recipe.core_rate) if is_core else recipe.rate)
                decay = recipe.weight_decay if value.ndim > 1 and not is_core else 0.0
                gradient = gradients[name] * min(1.0, clip / (norm + 1e-6))
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                mean = first[name] / (1 - 0.9 ** (step + 1))
                square = second[name] / (1 - 0.999 ** (step + 1))
                value.copy_(value * (1 - rate * decay) - rate * mean / (square.sqrt() + 1e-8))
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, named[name], rtol=1e-9, atol=1e-9)


def test_the_same_seed_gives_the_same_run_and_another_one_another(dataset, tmp_path, undisturbed):
    again, other = network(), network()
    assert run(again, dataset, tmp_path / "checkpoint.pt").losses == undisturbed[1].losses
    assert_same(again, undisturbed[0])
    other_losses = run(other, dataset, tmp_path / "checkpoint.pt", recipe=replace(RECIPE, seed=6)).losses
    assert other_losses != undisturbed[1].losses


@pytest.mark.parametrize("bad", range(STEPS))
def test_a_run_that_diverges_ends_there_with_finite_losses(dataset, tmp_path, bad):
    class Diverging(nn.Linear):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(x.flatten(1)) * (math.nan if self.calls > bad else 1.0)

    model = Diverging(72, 3)
    trained = run(model, dataset, tmp_path / "checkpoint.pt")
    assert trained.diverged
    assert model.calls == bad + 1
    assert len(trained.losses) == bad // 3
    assert all(map(math.isfinite, trained.losses))


def test_autocast_rounds_products_and_keeps_parameters(dataset, tmp_path, undisturbed):
    recipe, kinds = replace(RECIPE, autocast=True), set()
    model = network()
    model[-1].register_forward_hook(lambda module, given, output: kinds.add(output.dtype))
    trained = run(model, dataset, tmp_path / "checkpoint.pt", recipe=recipe)
    assert kinds == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert trained.losses != undisturbed[1].losses
    assert trained.losses == pytest.approx(undisturbed[1].losses, rel=0.05)
    accuracy(model, dataset.test_images, dataset.test_labels)
    assert kinds == {torch.bfloat16, torch.float32}, "measured in float32 unless asked"
    kinds.clear()
    accuracy(model, dataset.test_images, dataset.test_labels, autocast=True)
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize("batch", [1, 4, 29, 256])
def test_accuracy_counts_every_image_once_without_dropout(dataset, batch):
    model = network().train()
    found = accuracy(model, dataset.train_images, dataset.train_labels, batch=batch)
    with torch.no_grad():
        answers = [int(model.eval()(image[None]).argmax()) for image in dataset.train_images]
    right = sum(answer == label for answer, label in zip(answers, dataset.train_labels.tolist(), strict=True))
    assert found == right / 29
    assert 0 < right < 29
