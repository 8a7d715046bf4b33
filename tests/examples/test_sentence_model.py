"""The sentence model's example: real sentences, contenders of one size, and a page that says what it shows."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import adapt_sentence_model  # noqa: E402
import adntn  # noqa: E402
import sentence_contenders  # noqa: E402
import sentence_model  # noqa: E402
from sentences import Pair, read  # noqa: E402


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("results")
    assert adapt_sentence_model.main(["--quick", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def found(results: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((results / "sentence-model.json").read_text())
    return content


def test_every_contender_that_is_installed_has_a_row(results, found):
    page = (results / "sentence-model.md").read_text()
    for task, contenders in (
        ("adapters", sentence_contenders.ADAPTERS),
        ("compression", sentence_contenders.COMPRESSED),
    ):
        names = [one.name for one in contenders if one.is_possible]
        assert [result["name"] for result in found["results"] if result["task"] == task] == names
        for result in found["results"]:
            assert f"| {result['name']} | {result['how']} | {result['trained']:,} |" in page


def test_adapters_start_at_the_original(found):
    assert len({result["before"] for result in found["results"] if result["task"] == "adapters"}) == 1


def test_adapters_come_back_from_their_folders(found):
    kept = [result for result in found["results"] if result["folder"] is not None]
    assert {result["name"] for result in kept} >= {"ours, TTN with tanh", "ours, tensor train"}
    assert all(result["loaded"] == result["after"] for result in kept)


def test_the_page_names_no_machine(results, found):
    everything = (results / "sentence-model.md").read_text() + json.dumps(found)
    assert platform.node() not in everything
    assert str(Path.home()) not in everything
    assert str(results) not in everything


def test_without_a_model_there_is_nothing_to_do(capsys, tmp_path):
    assert adapt_sentence_model.main(["--out", str(tmp_path / "none")]) == 0
    assert "no --model FOLDER" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_a_folder_without_the_model_says_what_it_lacks(tmp_path):
    pytest.importorskip("tokenizers")
    with pytest.raises(FileNotFoundError, match=r"lacks config.json; docs/adapters.md"):
        sentence_model.load(tmp_path)


@pytest.mark.parametrize("shape", [(384, 384), (1536, 384), (384, 1536)])
@pytest.mark.parametrize("build", [lambda bond: adntn.TTN.options(bond=bond, leg=4), adntn.TensorTrain.options])
def test_contenders_have_about_as_many_numbers_as_lora(shape, build):
    wanted = sentence_contenders.numbers(1, shape)
    options = sentence_contenders.nearest(lambda bond: build(bond=bond), shape, wanted)
    assert options(shape).parameters - 1 == pytest.approx(wanted, rel=0.25)


def test_sentences_are_embedded_alike_in_any_batch():
    model = sentence_model.tiny()
    sentences = ["the sum of it", "a", "one more sentence about all of it", "the mean"]
    together = model.embed(sentences)
    for number, sentence in enumerate(sentences):
        assert torch.allclose(together[number], model.embed([sentence])[0], atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(4))


def test_pairs_are_names_and_first_sentences_and_each_stands_once(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    for number in range(40):
        (package / f"module{number}.py").write_text(
            f'def readTable{number}(self, file_name):\n    """Read table number {number} from a file.\n\n    More."""\n'
            'def same(x):\n    """The same in every file, so once."""\n'
            'def _private():\n    """Not for others to find, ever."""\n'
        )
    (package / "broken.py").write_text("def (:")
    (package / "tests").mkdir()
    (package / "tests" / "test_it.py").write_text('def tested(x):\n    """A test that is passed over."""\n')
    sentences = read([package])
    parts = [sentences.train, sentences.validation, sentences.test]
    assert Pair("read table3 file name", "Read table number 3 from a file.") in [one for part in parts for one in part]
    assert sum(map(len, parts)) == 41
    assert all(parts)
