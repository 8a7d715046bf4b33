"""Adapt and compress a sentence model, all-MiniLM-L6-v2, beside LoRA and tensorly-torch with as many numbers.

Two tasks on the docstrings that any machine has (see `sentences`):

  adapters     find a function's summary by its name and parameters: frozen weights, adapters on all attention and
               feed-forward layers, trained by the contrastive loss of sentence models
  compression  the table of words and the feed-forward layers from a tenth of the numbers, trained to give the
               sentence embeddings of the original; cosine similarity to these before and after

Results are for source files whose sentences were not trained on. It writes sentence-model.json and sentence-model.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from adntn.atomic import whole_file
from adntn_torch import adapters
from adntn_torch.training import warm_up
from sentence_contenders import ADAPTERS, COMPRESSED, RATES, RATIO, Contender
from sentence_model import SentenceModel, load, tiny
from sentences import Pair, Sentences, read, sources

#: The contrastive loss multiplies similarities by this, as in the training of the model.
SHARPNESS = 20.0
#: Share of the steps in which the learning rate rises.
WARM_UP = 0.1


@dataclass(frozen=True)
class Settings:
    """How much is done."""

    steps: int = 40
    batch: int = 32
    examined: int = 500
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """What one contender reached.

    Attributes:
        task: "adapters" or "compression".
        name: of the contender.
        how: its sizes in words.
        trained: how many numbers were trained.
        parameters: of the model, with them.
        before, after: for adapters, the share of functions whose summary is the most similar one; for compression, the
            mean cosine similarity to the original's embeddings.
        rank: for adapters, the mean of 1 / rank of the right summary, after training.
        seconds: of the training steps.
        folder: bytes of the adapter's folder, for those that have one.
        loaded: what `after` is for a fresh model with the adapter from that folder.
    """

    task: str
    name: str
    how: str
    trained: int
    parameters: int
    before: float
    after: float
    rank: float | None
    seconds: float
    folder: int | None = None
    loaded: float | None = None


Loss = Callable[[SentenceModel, Sequence[Pair]], Tensor]


def contrastive(model: SentenceModel, pairs: Sequence[Pair]) -> Tensor:
    """Return the loss for which each name finds its own summary among those of the batch, and the other way round."""
    both = model([pair.name for pair in pairs] + [pair.summary for pair in pairs])
    similarity = SHARPNESS * both[: len(pairs)] @ both[len(pairs) :].T
    right = torch.arange(len(pairs))
    loss: Tensor = functional.cross_entropy(similarity, right) + functional.cross_entropy(similarity.T, right)
    return loss / 2


def distilling(original: SentenceModel) -> Loss:
    """Return the loss for which a model embeds names and summaries as the original does: 1 - cosine similarity."""

    def loss(model: SentenceModel, pairs: Sequence[Pair]) -> Tensor:
        sentences = [pair.name for pair in pairs] + [pair.summary for pair in pairs]
        distance: Tensor = 1 - (model(sentences) * original.embed(sentences)).sum(1).mean()
        return distance

    return loss


def retrieval(model: SentenceModel, pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return the share of names whose own summary is the most similar one, and the mean of 1 / its rank."""
    names, summaries = (model.embed([getattr(pair, part) for pair in pairs]) for part in ("name", "summary"))
    similarity = names @ summaries.T
    ranks = (similarity > similarity.diagonal()[:, None]).sum(1) + 1
    return float((ranks == 1).float().mean()), float((1 / ranks).mean())


def similarity(model: SentenceModel, original: SentenceModel, pairs: Sequence[Pair]) -> float:
    """Return the mean cosine similarity of two models' embeddings of names and summaries."""
    sentences = [text for pair in pairs for text in (pair.name, pair.summary)]
    return float((model.embed(sentences) * original.embed(sentences)).sum(1).mean())


def constant(original: SentenceModel, pairs: Sequence[Pair]) -> float:
    """Return the mean cosine similarity of the original's embeddings to their own mean."""
    every = original.embed([text for pair in pairs for text in (pair.name, pair.summary)])
    return float((every @ functional.normalize(every.mean(0), dim=0)).mean())


def batches(pairs: Sequence[Pair], settings: Settings) -> Iterator[list[Pair]]:
    """Yield the batches of all steps: the same for every contender."""
    random = np.random.default_rng(settings.seed)
    order: list[int] = []
    for _ in range(settings.steps):
        if len(order) < settings.batch:
            order = random.permutation(len(pairs)).tolist()
        yield [pairs[order.pop()] for _ in range(min(settings.batch, len(order)))]


def train(model: SentenceModel, loss: Loss, pairs: Sequence[Pair], rate: float, settings: Settings) -> float:
    """Train what has `requires_grad`; return how many seconds it took."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(learned, lr=rate)
    schedule = warm_up(optimiser, settings.steps, share=WARM_UP, decay="constant")
    start = time.perf_counter()
    for batch in batches(pairs, settings):
        optimiser.zero_grad()
        loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return time.perf_counter() - start


def compare(
    task: str,
    contender: Contender,
    original: SentenceModel,
    pairs: tuple[Sequence[Pair], Sequence[Pair]],
    settings: Settings,
) -> Result:
    """Train one contender on the first pairs and examine it on the second ones."""
    torch.manual_seed(settings.seed)
    model = deepcopy(original)
    how = contender.change(model)
    trained, examined = pairs
    if task == "adapters":
        before, _ = retrieval(model, examined)
        seconds = train(model, contrastive, trained, contender.rate, settings)
        after, rank = retrieval(model, examined)
    else:
        before, rank = similarity(model, original, examined), None
        seconds = train(model, distilling(original), trained, contender.rate, settings)
        after = similarity(model, original, examined)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size, again = saved_and_loaded(model, original)
    loaded = None if again is None else retrieval(again, examined)[0]
    return Result(task, contender.name, how, count, parameters, before, after, rank, seconds, size, loaded)


def saved_and_loaded(model: SentenceModel, original: SentenceModel) -> tuple[int | None, SentenceModel | None]:
    """Return the size of an adapter's folder, ours or PEFT's, and a fresh model with the adapter from it."""
    with tempfile.TemporaryDirectory() as folder:
        if adapters.adapted_layers(model.transformer):
            adapters.save_adapter(model.transformer, folder)
        elif hasattr(model.transformer, "peft_config"):
            model.transformer.save_pretrained(folder)  # type: ignore[operator]
        else:
            return None, None
        again = deepcopy(original)
        adapters.load_adapter(again.transformer, folder)
        return sum(path.stat().st_size for path in Path(folder).glob("adapter_*")), again


def tuned(
    task: str, contender: Contender, original: SentenceModel, sentences: Sentences, settings: Settings
) -> Iterator[tuple[float, Result]]:
    """Yield each learning rate with what it reaches for the validation sentences."""
    for rate in RATES:
        changed = Contender(contender.name, rate, contender.change, contender.needs)
        examined = sentences.validation[: settings.examined]
        yield rate, compare(task, changed, original, (sentences.train, examined), settings)


def page(results: Sequence[Result], about: dict[str, Any]) -> str:
    """Return the results as a page of Markdown."""
    lines = [
        "# A sentence model, adapted and compressed",
        "",
        f"{about['model']}, by `{about['command']}`; {about['machine']}; {about['libraries']}. Sentences:"
        f" {about['sentences']}. {about['steps']} steps of {about['batch']} pairs for each row, one seed; learning"
        " rates are the best for validation sentences, for each method its own.",
        "",
        "## Adapters",
        "",
        "On all attention and feed-forward layers; the task is to find a function's summary by its name and parameters"
        f" among {about['examined']}. *Found* is the share for which it is the most similar one, with a standard error"
        f" of about {100 * 0.5 / about['examined'] ** 0.5:.0f} points; *1 / rank* the mean over all. Every method"
        " starts at the original, and is given about as many numbers as LoRA in each layer, unless it says otherwise."
        " *From it* is what a fresh model finds with the adapter from its folder, read by `load_adapter`, PEFT's too.",
        "",
        "| method | sizes | trained numbers | found before | found after | 1 / rank | seconds | folder | from it |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_adapter_row(result) for result in results if result.task == "adapters"),
        "",
        "## Compression",
        "",
        f"The table of words and the feed-forward layers, from a number for each {RATIO} weights (the original has"
        f" {about['parameters']:,} parameters in all), trained to give the original's sentence embeddings. *Cosine* is"
        " the mean similarity to these; a model that says the same of every sentence, the mean, has"
        f" {about['constant']:.3f}. All start from singular value decompositions of the old"
        " weights, but for the one that says so.",
        "",
        "| method | sizes | trained numbers | whole model | cosine before | cosine after | seconds |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        *(_compressed_row(result) for result in results if result.task == "compression"),
    ]
    return "\n".join(lines) + "\n"


def _adapter_row(result: Result) -> str:
    shares = f"{100 * result.before:.1f} % | {100 * result.after:.1f} %"
    return (
        f"| {result.name} | {result.how} | {result.trained:,} | {shares} | {result.rank or 0:.3f} |"
        f" {result.seconds:,.0f} | {_folder(result)} |"
    )


def _folder(result: Result) -> str:
    if result.folder is None or result.loaded is None:
        return " | "
    return f"{result.folder / 1024:,.0f} KiB | {100 * result.loaded:.1f} %"


def _compressed_row(result: Result) -> str:
    cosines = f"{result.before:.3f} | {result.after:.3f}"
    return (
        f"| {result.name} | {result.how} | {result.trained:,} | {result.parameters:,} | {cosines} |"
        f" {result.seconds:,.0f} |"
    )


def about(
    arguments: argparse.Namespace, settings: Settings, sentences: Sentences, names: Sequence[str]
) -> dict[str, Any]:
    """Return what a reader must know to make the results again, and nothing of the machine's own names."""
    threads = torch.get_num_threads()
    options = [f"--steps {settings.steps}"] + (["--quick"] if arguments.quick else ["--model FOLDER"])
    counts = [len(part) for part in (sentences.train, sentences.validation, sentences.test)]
    return {
        "model": "A tiny random model" if arguments.quick else "all-MiniLM-L6-v2",
        "command": " ".join(["python examples/adapt_sentence_model.py", *sorted(options)]),
        "machine": f"{threads} thread{'s' if threads > 1 else ''} of a CPU ({platform.machine()})",
        "libraries": ", ".join(versions()),
        "sentences": f"the docstrings of {', '.join(names)} ({counts[0]:,} functions for training, {counts[1]:,} for"
        f" validation, {counts[2]:,} for the results)",
        "steps": settings.steps,
        "batch": settings.batch,
        "examined": min(settings.examined, counts[2]),
        "seed": settings.seed,
    }


def versions() -> Iterator[str]:
    """Yield the libraries that took part, with their versions."""
    for name in ("torch", "transformers", "peft", "tensorly-torch"):
        with suppress(metadata.PackageNotFoundError):
            yield f"{name} {metadata.version(name).partition('+')[0]}"


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="all-MiniLM-L6-v2: see docs/adapters.md")
    parser.add_argument("--quick", action="store_true", help="a tiny random model and few steps: does it run?")
    parser.add_argument("--out", type=Path, default=Path("sentence-model"), metavar="FOLDER", help="for the results")
    parser.add_argument("--steps", type=int, help=f"of training, by default {Settings.steps}")
    parser.add_argument("--only", metavar="TEXT", help="contenders whose names have this text")
    parser.add_argument("--tune", action="store_true", help="show what each learning rate reaches for validation")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit status."""
    asked = arguments(given)
    console = Console()
    if asked.model is None and not asked.quick:
        console.print(
            "There is no --model FOLDER, so that there is nothing to do; see docs/adapters.md, or try --quick."
        )
        return 0
    settings = Settings(steps=2, batch=4, examined=20) if asked.quick else Settings()
    if asked.steps is not None:
        settings = Settings(asked.steps, settings.batch, settings.examined)
    original = tiny() if asked.quick else load(asked.model)
    places = sources()
    sentences = read([places[next(iter(places))] / "email"] if asked.quick else list(places.values()))
    names = [next(iter(places))] if asked.quick else list(places)
    results: list[Result] = []
    for task, contenders in (("adapters", ADAPTERS), ("compression", COMPRESSED)):
        for contender in contenders:
            if asked.only is not None and asked.only not in f"{task} {contender.name}":
                continue
            if not contender.is_possible:
                console.print(f"{task}: {contender.name} is left out, because {contender.needs} is not installed")
                continue
            if asked.tune:
                for rate, result in tuned(task, contender, original, sentences, settings):
                    console.print(f"{task}: {contender.name}, rate {rate}: {result.before:.4f} -> {result.after:.4f}")
                continue
            pairs = sentences.train, sentences.test[: settings.examined]
            result = compare(task, contender, original, pairs, settings)
            console.print(
                f"{task}: {result.name} ({result.trained:,} numbers): {result.before:.4f} -> {result.after:.4f}"
                f" in {result.seconds:.0f} s"
            )
            results.append(result)
    if results:
        facts = about(asked, settings, sentences, names)
        facts["parameters"] = sum(parameter.numel() for parameter in original.parameters())
        facts["constant"] = constant(original, sentences.test[: settings.examined])
        write(asked.out, results, facts)
    return 0


def write(folder: Path, results: Sequence[Result], facts: dict[str, Any]) -> None:
    """Write the results as JSON and as a page."""
    folder.mkdir(parents=True, exist_ok=True)
    found = json.dumps({"about": facts, "results": [asdict(result) for result in results]}, indent=2)
    for name, content in (("sentence-model.json", found + "\n"), ("sentence-model.md", page(results, facts))):
        with whole_file(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
