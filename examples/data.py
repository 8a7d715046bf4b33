"""Labelled images for the examples: scikit-learn's digits, or CIFAR-10 in any of its usual forms.

Every loader ends in the same frozen `Dataset` of normalised torch tensors. What lives here reads files and nothing
else; augmentation belongs to `training.py`. Files are never executed: arrays are read with ``allow_pickle=False``, and
CIFAR-10's official python batches, which are pickles by nature, go through an unpickler that builds arrays and bytes.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from adntn.atomic import whole_file

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_IMAGE = (3, 32, 32)
PYTHON_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
BINARY_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
EXPECTED = (
    "a `cifar-10-batches-py` folder (data_batch_1 ... test_batch), a `cifar-10-batches-bin` folder "
    "(data_batch_1.bin ... test_batch.bin), a folder with train.npz and test.npz (jpeg, offsets, labels, classes), "
    "or a folder that contains one of these"
)


@dataclass(frozen=True)
class Dataset:
    """Images and labels, split once and for all.

    Images are float32 of shape (count, channels, height, width), normalised per channel with the mean and the standard
    deviation of the training images; labels are int64 of shape (count,).
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    shift: int = 0
    """By how many pixels an image may be moved and still show its class (not by one where digits are 8 pixels wide)."""
    mirror: bool = False
    """Whether a mirrored image still shows its class (a mirrored digit does not)."""
    note: str = ""
    """What a reader must know beside every figure, such as 'JPEG re-encoded'."""
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    deviation: Tensor = field(default_factory=lambda: torch.ones(()))
    """By which pixels from 0 to 255 were normalised, of shape (channels, 1, 1)."""

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return int(self.train_images.shape[1])

    @property
    def size(self) -> int:
        """Height of an image in pixels, which is also its width."""
        return int(self.train_images.shape[2])

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        counts = f"{len(self.train_labels):,} training and {len(self.test_labels):,} test images"
        return (
            f"{self.name}{note}: {counts} of {self.channels} x {self.size} x {self.size}, {len(self.classes)} classes"
        )


@dataclass(frozen=True)
class _Split:
    """One half of a data set before decoding: the labels of all images, and a reader for chosen ones."""

    labels: Integers
    read: Callable[[Integers], Bytes]


def load_data(path: Path | None = None, *, images: int | None = None, test_images: int | None = None) -> Dataset:
    """Return digits (without a path) or the CIFAR-10 found at `path`.

    >>> load_data(images=200).train_images.shape
    torch.Size([200, 1, 8, 8])

    Args:
        path: a folder with CIFAR-10; None means scikit-learn's digits.
        images, test_images: how many images to keep, spread evenly over the classes; None keeps all.

    Raises:
        FileNotFoundError
        when the path holds none of the known forms, or a file of its form is missing.
        ValueError
        when a file is there but does not hold what its form promises, or a limit is smaller than the classes.
    """
    limits = (images, test_images)
    return _digits(limits) if path is None else _cifar10(Path(path), limits)


def write_dataset(dataset: Dataset, path: Path) -> None:
    """Write a data set into one file, which is mapped into memory when it is read: several processes share it."""
    tensors = {one.name: value for one in fields(dataset) if isinstance(value := getattr(dataset, one.name), Tensor)}
    rest = {one.name: getattr(dataset, one.name) for one in fields(dataset) if one.name not in tensors}
    with whole_file(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, {"rest": json.dumps(rest)})


def read_dataset(path: Path) -> Dataset:
    """Return the data set that `write_dataset` wrote."""
    with safe_open(path, "pt") as file:
        rest = json.loads(file.metadata()["rest"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    return Dataset(**tensors, **{**rest, "classes": tuple(rest["classes"])})


def _digits(limits: tuple[int | None, int | None]) -> Dataset:
    """Return scikit-learn's 1,797 digits, 8 x 8, with one fixed stratified fifth of them for testing."""
    digits = load_digits()
    pixels = (digits.images * (255.0 / 16.0)).round().astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    splits = [_joined([(pixels[rows], labels[rows])]) for rows in (train, test)]
    classes = tuple(str(digit) for digit in range(10))
    return _dataset("digits", splits[0], splits[1], limits, classes)


def _cifar10(path: Path, limits: tuple[int | None, int | None]) -> Dataset:
    """Return the CIFAR-10 at or one level below `path`, whichever form it has."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; expected {EXPECTED}")
    for folder in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin", path / "cifar10"):
        if (folder / PYTHON_BATCHES[0]).is_file():
            train = _python_split(folder, PYTHON_BATCHES)
            test = _python_split(folder, ("test_batch",))
            return _dataset("CIFAR-10", train, test, limits, CIFAR10_CLASSES, shift=4, mirror=True)
        if (folder / BINARY_BATCHES[0]).is_file():
            train = _binary_split(folder, BINARY_BATCHES)
            test = _binary_split(folder, ("test_batch.bin",))
            return _dataset("CIFAR-10", train, test, limits, CIFAR10_CLASSES, shift=4, mirror=True)
        if (folder / "train.npz").is_file():
            train, classes = _jpeg_split(folder / "train.npz")
            test, test_classes = _jpeg_split(folder / "test.npz")
            if test_classes != classes:
                raise ValueError(f"{folder}: train.npz has the classes {classes}, test.npz has {test_classes}")
            note = "JPEG re-encoded"
            return _dataset("CIFAR-10", train, test, limits, classes, shift=4, mirror=True, note=note)
    raise FileNotFoundError(f"{path}: found no CIFAR-10 here; expected {EXPECTED}")


def _dataset(
    name: str,
    train: _Split,
    test: _Split,
    limits: tuple[int | None, int | None],
    classes: tuple[str, ...],
    *,
    shift: int = 0,
    mirror: bool = False,
    note: str = "",
) -> Dataset:
    """Return the chosen images of both splits, as many as the limits say, normalised by the training images."""
    for split, labels in (("training", train.labels), ("test", test.labels)):
        if not len(labels):
            raise ValueError(f"{name}: there are no {split} images")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(f"{name}: labels from 0 to {len(classes) - 1} expected, got {set(labels.tolist())}")
    train_rows = balanced(train.labels, limits[0], len(classes))
    test_rows = balanced(test.labels, limits[1], len(classes))
    train_pixels, test_pixels = train.read(train_rows), test.read(test_rows)
    mean = torch.from_numpy(train_pixels.mean(axis=(0, 2, 3), dtype=np.float64)).float()[:, None, None]
    deviation = torch.from_numpy(train_pixels.std(axis=(0, 2, 3), dtype=np.float64)).float()[:, None, None]
    return Dataset(
        name=name,
        train_images=(torch.from_numpy(train_pixels).float() - mean) / deviation,
        train_labels=torch.from_numpy(train.labels[train_rows]),
        test_images=(torch.from_numpy(test_pixels).float() - mean) / deviation,
        test_labels=torch.from_numpy(test.labels[test_rows]),
        classes=classes,
        shift=shift,
        mirror=mirror,
        note=note,
        mean=mean,
        deviation=deviation,
    )


def balanced(labels: Integers, limit: int | None, classes: int) -> Integers:
    """Return the rows of the first `limit` labels that keep the classes as equal in number as they can be.

    >>> balanced(np.array([0, 0, 0, 1, 0, 1]), 4, classes=2).tolist()
    [0, 1, 3, 5]
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    if limit < classes:
        raise ValueError(f"at least one image of each of the {classes} classes is needed, got a limit of {limit}")
    # The rank of a row within its own class: taking the smallest ranks first takes the classes in turn.
    rank = np.empty(len(labels), dtype=np.int64)
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        rank[rows] = np.arange(len(rows))
    return np.sort(np.argsort(rank, kind="stable")[:limit])


# CIFAR-10, official python folder


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can build arrays of whole numbers, bytes and the plain containers, and nothing else.

    Not even NumPy's own classes are admitted: a state made up for a dtype crashes the interpreter.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands here for the function or class asked for; refuse all that no array needs."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Array
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return _array_of_buffer
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _Numbers}[name]
        if module == "_codecs" and name == "encode":
            return _encode_latin
        raise pickle.UnpicklingError(
            f"refused to load {module}.{name}: only arrays and bytes belong in a CIFAR-10 batch"
        )


class _Numbers:
    """A kind of whole numbers, standing for a dtype."""

    def __init__(self, name: str | bytes, *_: Any) -> None:
        self.name, self.order = _text(name), "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])

    def array(self, content: bytes, shape: tuple[int, ...], order: Literal["C", "F"]) -> npt.NDArray[Any]:
        """Return the array of this kind that some bytes hold."""
        if self.name not in ("u1", "i1", "i2", "i4", "i8"):
            raise pickle.UnpicklingError(f"refused an array of {self.name!r}, which are no whole numbers")
        return np.frombuffer(content, dtype=self.order + self.name).reshape(shape, order=order)


class _Array:
    """An array that is given its content after it was built, as pickles do."""

    values: npt.NDArray[Any] | None = None

    def __init__(self, *_: Any) -> None:
        """Take what NumPy's own function takes, and leave the array empty."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, numbers, fortran, content = state
        self.values = numbers.array(content, shape, "F" if fortran else "C")


def _array_of_buffer(content: bytes, numbers: _Numbers, shape: tuple[int, ...], order: Literal["C", "F"]) -> _Array:
    """Return the array that newer pickles keep as one buffer."""
    array = _Array()
    array.values = numbers.array(content, shape, order)
    return array


def _text(name: str | bytes) -> str:
    """Return a name that Python 2 wrote as bytes and Python 3 as text."""
    return name.decode("ascii") if isinstance(name, bytes) else name


def _encode_latin(text: str, encoding: str = "latin1") -> bytes:
    """Return the bytes that Python 3 wrote as text when it pickled for Python 2; no other codec is admitted."""
    if _text(encoding) not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"refused the codec {encoding!r}")
    return text.encode("latin1")


def read_python_batch(path: Path) -> tuple[Bytes, Integers]:
    """Return the pixels, of shape (count, 3, 32, 32), and the labels of one official python batch."""
    content = _existing(path).read_bytes()
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # bytes that are no pickle make pickle raise almost anything
        raise ValueError(f"{path}: not a CIFAR-10 python batch: {error}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{path}: expected a dictionary with data and labels, got {type(batch).__name__}")
    entries = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    if "data" not in entries or "labels" not in entries:
        raise ValueError(f"{path}: expected the entries data and labels, got {sorted(map(str, entries))}")
    pixels = getattr(entries["data"], "values", None)
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"{path}: expected data to be an array, got {type(entries['data']).__name__}")
    labels = _labels(path, getattr(entries["labels"], "values", entries["labels"]))
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
        raise ValueError(f"{path}: expected uint8 data of ({len(labels)}, 3072), got {pixels.dtype} {pixels.shape}")
    return pixels.reshape(-1, *CIFAR10_IMAGE), labels


def _labels(path: Path, values: Any) -> Integers:
    """Return labels as an array of one dimension, or say that they are none."""
    try:
        labels = np.asarray(values)
    except ValueError:  # lists of different lengths
        labels = np.zeros(())
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise ValueError(f"{path}: expected labels to be a list of whole numbers")
    return labels.astype(np.int64)


def _python_split(folder: Path, names: tuple[str, ...]) -> _Split:
    """Return one split of the official python folder."""
    return _joined([read_python_batch(folder / name) for name in names])


# CIFAR-10, official binary folder


def read_binary_batch(path: Path) -> tuple[Bytes, Integers]:
    """Return the pixels, of shape (count, 3, 32, 32), and the labels of one official binary batch."""
    content = np.frombuffer(_existing(path).read_bytes(), dtype=np.uint8)
    if not len(content) or len(content) % 3073:
        raise ValueError(
            f"{path}: expected records of 3,073 bytes (label, then 3 x 32 x 32), got {len(content):,} bytes"
        )
    records = content.reshape(-1, 3073)
    return records[:, 1:].reshape(-1, *CIFAR10_IMAGE), records[:, 0].astype(np.int64)


def _binary_split(folder: Path, names: tuple[str, ...]) -> _Split:
    """Return one split of the official binary folder."""
    return _joined([read_binary_batch(folder / name) for name in names])


def _joined(batches: list[tuple[Bytes, Integers]]) -> _Split:
    """Return batches end to end as one split."""
    pixels = np.concatenate([pixels for pixels, _ in batches])
    return _Split(np.concatenate([labels for _, labels in batches]), lambda rows: pixels[rows])


# CIFAR-10, JPEG files end to end


def _jpeg_split(path: Path) -> tuple[_Split, tuple[str, ...]]:
    """Return one split and its class names from an archive of JPEG files laid end to end."""
    names = ("jpeg", "offsets", "labels", "classes")
    file = _existing(path)
    try:
        with np.load(file, allow_pickle=False) as archive:
            content, offsets, labels, classes = (archive[name] for name in names)
    except Exception as error:  # as above: NumPy, zipfile, zlib and tokenize each have their own
        raise ValueError(f"{path}: expected an archive of the arrays {', '.join(names)}: {error}") from error
    labels = _labels(path, labels)
    if any(array.ndim != 1 for array in (content, offsets, classes)) or content.dtype != np.uint8:
        raise ValueError(f"{path}: expected jpeg, offsets and classes of one dimension, and jpeg to be uint8")
    offsets = offsets.astype(np.int64)
    if len(offsets) != len(labels) + 1 or offsets[-1] > len(content) or np.any(np.diff(offsets) <= 0):
        raise ValueError(f"{path}: offsets do not cut {len(content):,} bytes into {len(labels):,} files")

    def read(rows: Integers) -> Bytes:
        files = (content[offsets[row] : offsets[row + 1]].tobytes() for row in rows)
        return np.stack([_decode(file, path, int(row)) for row, file in zip(rows, files, strict=True)])

    return _Split(labels, read), tuple(str(name) for name in classes)


def _decode(file: bytes, path: Path, row: int) -> Bytes:
    """Return one JPEG's pixels, of shape (3, height, width)."""
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415  (digits need none)

    try:
        with Image.open(io.BytesIO(file), formats=("JPEG",)) as image:
            width, height = image.size
            pixels = np.asarray(image.convert("RGB")) if (width, height) == (32, 32) else None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"{path}: image {row} is not a readable JPEG: {error}") from error
    if pixels is None:
        raise ValueError(f"{path}: image {row} should be 32 x 32, got {width} x {height}")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _existing(path: Path) -> Path:
    """Return the path of a file that is there, or say what was expected."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected {EXPECTED}")
    return path
