"""Data: every form of CIFAR-10 gives the pixels that were written; damage is named, and nothing is executed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_data import CLASSES, FILES, FOLDERS, FORMS, archive, fake, jpeg, python2_pickle
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from data import balanced, load_data, read_binary_batch, read_python_batch

FAKE = fake()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def folder(tmp_path: Path, form: str) -> Path:
    FORMS[form](tmp_path, FAKE)
    return tmp_path


# What is read


@pytest.mark.parametrize("nested", [False, True])
def test_every_form_gives_the_images_that_were_written_normalised_by_those_of_training(tmp_path, form, nested):
    folder = tmp_path / FOLDERS[form] if nested else tmp_path
    folder.mkdir(exist_ok=True)
    FORMS[form](folder, FAKE)
    dataset = load_data(tmp_path)
    levels = FAKE.train.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    mean, deviation = levels.mean(1)[:, None, None], levels.std(1)[:, None, None]
    tolerance = 0.06 if form == "jpeg" else 1e-5  # three levels of a deviation of sixty
    for images, pixels in ((dataset.train_images, FAKE.train), (dataset.test_images, FAKE.test)):
        assert images.dtype == torch.float32
        np.testing.assert_allclose(images.numpy(), (pixels - mean) / deviation, rtol=0, atol=tolerance)
    assert dataset.train_labels.tolist() == FAKE.train_labels
    assert dataset.test_labels.tolist() == FAKE.test_labels
    assert (dataset.name, dataset.classes) == ("CIFAR-10", CLASSES)
    assert (dataset.channels, dataset.size, dataset.mirror, dataset.shift) == (3, 32, True, 4)
    assert ("JPEG" in str(dataset)) == (form == "jpeg")


def test_limits_keep_the_first_of_every_class_and_normalise_by_those_kept(folder):
    dataset = load_data(folder, images=13, test_images=10)
    assert sorted(Counter(dataset.train_labels.tolist()).values()) == [1] * 7 + [2] * 3
    assert dataset.test_labels.tolist() == list(range(10))
    assert torch.allclose(dataset.train_images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(dataset.train_images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    whole = load_data(folder, test_images=10_000)
    assert (len(whole.train_labels), len(whole.test_labels)) == (20, 12)


def test_digits_are_scikit_learns_each_once_split_and_normalised():
    dataset, digits = load_data(), load_digits()
    pixels = np.rint(digits.images * 255 / 16).reshape(-1, 64)
    both = torch.cat([dataset.train_images, dataset.test_images]).flatten(1).double().numpy()
    # Normalising is affine and rising: the extremes of all pixels give its two numbers back.
    raw = np.rint((both - both.min()) / (both.max() - both.min()) * 255)
    labels = torch.cat([dataset.train_labels, dataset.test_labels]).tolist()
    found = Counter(zip(labels, map(bytes, raw.astype(np.uint8)), strict=True))
    assert found == Counter(zip(digits.target.tolist(), map(bytes, pixels.astype(np.uint8)), strict=True))
    assert len(dataset.test_labels) == 360
    assert set(Counter(dataset.test_labels.tolist()).values()) <= {35, 36, 37}
    assert (float(dataset.train_images.mean()), float(dataset.train_images.std())) == pytest.approx((0, 1), abs=1e-3)
    assert (dataset.mirror, dataset.shift) == (False, 0)
    assert torch.equal(load_data().train_images, dataset.train_images)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(4, 45))
def test_a_limit_is_filled_by_taking_one_of_every_class_in_turn(labels, limit):
    waiting = [[row for row, label in enumerate(labels) if label == wanted] for wanted in range(4)]
    counts = [0] * 4
    while sum(counts) < min(limit, len(labels)):
        counts[min((count, label) for label, count in enumerate(counts) if count < len(waiting[label]))[1]] += 1
    rows = balanced(np.array(labels), limit, 4).tolist()
    taken = Counter(labels[row] for row in rows)
    # Which class gives the last, incomplete turn is left open.
    assert sorted(taken[label] for label in range(4)) == sorted(counts)
    assert rows == sorted(row for label in range(4) for row in waiting[label][: taken[label]])


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [list, np.array])
def test_batches_pickled_anew_by_python_3_are_read_as_well(tmp_path, protocol, order, kind):
    _, pixels, labels = FAKE.batches()[0]
    batch = {
        b"data": np.asarray(pixels.reshape(4, 3072), order=order),
        "labels": kind(labels),
        "batch_label": b"1 of 5",
    }
    (tmp_path / "batch").write_bytes(pickle.dumps(batch, protocol))
    read, numbers = read_python_batch(tmp_path / "batch")
    assert np.array_equal(read, pixels)
    assert numbers.tolist() == labels


# What is refused


class Payload:
    """Pickled, a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


PAYLOADS = {
    "a program": lambda mark: Payload(subprocess.call, [sys.executable, "-c", f"open({str(mark)!r}, 'w')"]),
    "a method by its dotted name": lambda mark: Payload(Path.touch, mark),
    "eval": lambda mark: Payload(eval, f"open({str(mark)!r}, 'w')"),
    "among the labels": lambda mark: {"data": np.zeros((1, 3072), np.uint8), "labels": [Payload(Path.touch, mark)]},
    "in an array of objects": lambda mark: {"data": np.array([Payload(Path.touch, mark)]), "labels": [0]},
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_a_pickle_that_calls_functions_is_refused_and_executes_nothing(tmp_path, payload):
    mark = tmp_path / "executed"
    FORMS["python"](tmp_path, FAKE)
    content = pickle.dumps(payload(mark))
    (tmp_path / "data_batch_3").write_bytes(content)
    with pytest.raises(ValueError, match=r"data_batch_3: not a CIFAR-10 python batch: refused to load"):
        load_data(tmp_path)
    assert not mark.exists()
    pickle.loads(content)
    assert mark.exists(), "to an ordinary unpickler the payload is a real one"


def test_a_dtype_made_up_to_crash_the_interpreter_is_not_built(tmp_path):
    batch = python2_pickle(FAKE.test, FAKE.test_labels)
    tail = b"J\xff\xff\xff\xff" * 2 + b"J%s\x00\x00\x00tb"  # size and alignment unsaid, then flags
    assert batch.count(tail.replace(b"%s", b"\x00")) == 1
    (tmp_path / "batch").write_bytes(batch.replace(tail.replace(b"%s", b"\x00"), tail.replace(b"%s", b"\x7f")))
    pixels, _ = read_python_batch(tmp_path / "batch")
    assert np.array_equal(pixels, FAKE.test)


@pytest.mark.parametrize("kind", [b"O8", b"V9", b"f8", b"S1"])
def test_arrays_of_anything_but_whole_numbers_are_refused(tmp_path, kind):
    (tmp_path / "batch").write_bytes(python2_pickle(FAKE.test, FAKE.test_labels).replace(b"U\x02u1", b"U\x02" + kind))
    with pytest.raises(ValueError, match=f"refused an array of '{kind.decode()}'"):
        read_python_batch(tmp_path / "batch")


def test_a_codec_that_python_2_needed_is_admitted_and_no_other(tmp_path):
    batch = pickle.dumps({"data": FAKE.test.reshape(-1, 3072), "labels": FAKE.test_labels}, 2)
    assert b"latin1" in batch
    (tmp_path / "batch").write_bytes(batch.replace(b"latin1", b"rot_13"))
    with pytest.raises(ValueError, match="refused the codec 'rot_13'"):
        read_python_batch(tmp_path / "batch")


@pytest.mark.parametrize("reader", [read_python_batch, read_binary_batch])
def test_a_batch_that_was_cut_off_anywhere_is_named(tmp_path, reader):
    _, pixels, labels = FAKE.batches()[0]
    record = bytes([labels[0]]) + pixels[0].tobytes()
    whole = python2_pickle(pixels[:1], labels[:1]) if reader is read_python_batch else record
    path = tmp_path / "batch"
    path.write_bytes(whole)
    reader(path)
    for length in {*range(0, len(whole), 97), *range(200), *range(len(whole) - 60, len(whole))}:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="batch: "):
            reader(path)


def test_a_batch_with_any_one_byte_changed_is_read_or_named(tmp_path):
    path, whole = tmp_path / "batch", python2_pickle(FAKE.test[:1], [3])
    random = np.random.default_rng(0)
    outcomes = Counter()
    for place in [*range(250), *range(len(whole) - 40, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] = int(random.integers(256))
        path.write_bytes(damaged)
        try:
            pixels, labels = read_python_batch(path)
        except ValueError as error:
            outcomes["named" if str(path) in str(error) else f"not named: {error}"] += 1
        else:
            assert (pixels.dtype, pixels.shape, labels.shape) == (np.uint8, (1, 3, 32, 32), (1,))
            outcomes["read"] += 1
    assert set(outcomes) == {"named", "read"}


@pytest.mark.parametrize("file", [0, -1])
def test_a_missing_file_is_named_with_what_is_expected(folder, form, file):
    (folder / FILES[form][file]).unlink()
    wanted = "found no CIFAR-10 here" if file == 0 else FILES[form][file]
    with pytest.raises(FileNotFoundError, match=rf"{wanted}.*expected a `cifar-10-batches-py` folder"):
        load_data(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load_data(tmp_path / "nowhere")


def test_a_label_that_is_no_class_is_named(tmp_path, form):
    FORMS[form](tmp_path, replace(FAKE, test_labels=[10, *FAKE.test_labels[1:]]))
    with pytest.raises(ValueError, match="labels from 0 to 9 expected"):
        load_data(tmp_path)


@pytest.mark.parametrize("form", ["python", "jpeg"])
def test_a_split_without_images_is_named(tmp_path, form):
    FORMS[form](tmp_path, FAKE)
    if form == "python":
        (tmp_path / "test_batch").write_bytes(python2_pickle(FAKE.test[:0], []))
    else:
        arrays = {**archive(FAKE.test, FAKE.test_labels), "offsets": np.zeros(1, int), "labels": np.zeros(0, int)}
        np.savez(tmp_path / "test.npz", **arrays)
    with pytest.raises(ValueError, match="there are no test images"):
        load_data(tmp_path)


@pytest.mark.parametrize(("images", "test_images"), [(9, None), (None, 9)])
def test_a_limit_below_the_number_of_classes_is_named(images, test_images):
    with pytest.raises(ValueError, match="each of the 10 classes is needed, got a limit of 9"):
        load_data(images=images, test_images=test_images)


DATA = np.zeros((2, 3072), np.uint8)
WRONG_BATCHES = {
    "no dictionary": ([1, 2], "expected a dictionary"),
    "no labels": ({b"data": DATA}, "entries data and labels, got"),
    "no array": ({"data": [[1], [2]], "labels": [0, 1]}, "data to be an array, got list"),
    "wide numbers": ({"data": DATA.astype(np.int64), "labels": [0, 1]}, "expected uint8 data"),
    "small images": ({"data": DATA[:, :1024], "labels": [0, 1]}, r"of \(2, 3072\), got uint8 \(2, 1024\)"),
    "too few labels": ({"data": DATA, "labels": [0]}, r"of \(1, 3072\)"),
    "labels of text": ({"data": DATA, "labels": ["cat", "dog"]}, "labels to be a list of whole numbers"),
    "a single label": ({"data": DATA, "labels": 3}, "labels to be a list of whole numbers"),
    "ragged labels": ({"data": DATA, "labels": [[0], [1, 2]]}, "labels to be a list of whole numbers"),
    "labels of 100 bits": ({"data": DATA, "labels": [2**100, 1]}, "labels to be a list of whole numbers"),
}


@pytest.mark.parametrize(("batch", "message"), WRONG_BATCHES.values(), ids=WRONG_BATCHES.keys())
def test_a_python_batch_that_holds_something_else_is_named(tmp_path, batch, message):
    (tmp_path / "batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(ValueError, match=rf"batch: .*{message}"):
        read_python_batch(tmp_path / "batch")


GOOD = archive(FAKE.train, FAKE.train_labels)
LARGE = jpeg(np.zeros((3, 64, 48), np.uint8))
HEADER = LARGE.index(b"\xff\xc0") + 5
BOMB = LARGE[:HEADER] + b"\xff\xdc\xff\xdc" + LARGE[HEADER + 4 :]
WRONG_ARCHIVES = {
    "an array is missing": ({"offsets": None}, "expected an archive of the arrays jpeg, offsets, labels, classes"),
    "objects": ({"labels": np.array([None] * 20)}, "expected an archive"),
    "too few offsets": ({"offsets": GOOD["offsets"][:-1]}, "offsets do not cut"),
    "offsets beyond the end": ({"offsets": GOOD["offsets"] + 9}, "offsets do not cut"),
    "offsets that fall": ({"offsets": GOOD["offsets"][::-1]}, "offsets do not cut"),
    "files of one dimension too many": ({"jpeg": GOOD["jpeg"][None]}, "of one dimension"),
    "files as real numbers": ({"jpeg": GOOD["jpeg"].astype(float)}, "uint8"),
    "labels of text": ({"labels": np.array(["cat"] * 20)}, "labels to be a list of whole numbers"),
    "no JPEG": ({"jpeg": np.zeros_like(GOOD["jpeg"])}, "image 0 is not a readable JPEG"),
    "half a JPEG": (
        {
            "jpeg": np.concatenate(
                [GOOD["jpeg"][: GOOD["offsets"][1] // 2], GOOD["jpeg"][GOOD["offsets"][1] // 2 + 40 :]]
            )
        },
        "offsets do not cut",
    ),
    "a large image": (
        {"jpeg": np.frombuffer(LARGE, np.uint8), "offsets": np.array([0, len(LARGE)]), "labels": np.array([0])},
        "image 0 should be 32 x 32, got 48 x 64",
    ),
    "an image that would fill the memory": (
        {"jpeg": np.frombuffer(BOMB, np.uint8), "offsets": np.array([0, len(BOMB)]), "labels": np.array([0])},
        "image 0 is not a readable JPEG",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG_ARCHIVES.values(), ids=WRONG_ARCHIVES.keys())
def test_a_damaged_archive_is_named(tmp_path, change, message):
    arrays = {name: array for name, array in {**GOOD, **change}.items() if array is not None}
    np.savez(tmp_path / "train.npz", **arrays)
    np.savez(tmp_path / "test.npz", **archive(FAKE.test, FAKE.test_labels))
    with pytest.raises(ValueError, match=rf"train\.npz: .*{message}"):
        load_data(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_with_any_one_byte_changed_is_read_or_named(tmp_path, save):
    path = tmp_path / "train.npz"
    FORMS["jpeg"](tmp_path, FAKE)
    save(path, **GOOD)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    outcomes = Counter()
    for place in random.integers(0, len(whole), 60).tolist() + list(range(0, 40)):
        damaged = bytearray(whole)
        damaged[place] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:
            load_data(tmp_path, images=10)
        except ValueError as error:
            outcomes["named" if str(tmp_path) in str(error) else f"not named: {error}"] += 1
    assert set(outcomes) <= {"named"}
    assert outcomes["named"] > 50


def test_archives_with_different_classes_do_not_pass_for_one_data_set(tmp_path):
    np.savez(tmp_path / "train.npz", **GOOD)
    arrays = {**archive(FAKE.test, FAKE.test_labels), "classes": np.array(CLASSES[::-1])}
    np.savez(tmp_path / "test.npz", **arrays)
    with pytest.raises(ValueError, match=r"train\.npz has the classes .* test\.npz has"):
        load_data(tmp_path)
