"""Tiny CIFAR-10 folders with known pixels, in each of the three forms, written byte by byte."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Fake:
    """Pixels of shape (count, 3, 32, 32) and labels: five training batches of four images, and one of tests."""

    train: Bytes
    train_labels: list[int]
    test: Bytes
    test_labels: list[int]

    def batches(self) -> list[tuple[str, Bytes, list[int]]]:
        """Return the name, the pixels and the labels of each official batch."""
        cuts = [slice(4 * number, 4 * number + 4) for number in range(5)]
        train = [(f"data_batch_{n}", self.train[cut], self.train_labels[cut]) for n, cut in enumerate(cuts, 1)]
        return [*train, ("test_batch", self.test, self.test_labels)]


def fake(seed: int = 0) -> Fake:
    """Return images of four random squares of colour each (JPEG keeps them), with every label among twenty."""
    random = np.random.default_rng(seed)
    squares = random.integers(20, 236, (32, 3, 2, 2), dtype=np.uint8)
    pixels = squares.repeat(16, axis=2).repeat(16, axis=3)
    return Fake(pixels[:20], random.permutation([*range(10), *range(10)]).tolist(), pixels[20:], [*range(10), 3, 7])


def python2_pickle(pixels: Bytes, labels: list[int]) -> bytes:
    """Return a batch as Python 2 and the NumPy of 2009 pickled it: protocol 2, byte strings, an array by its parts."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    def integer(number: int) -> bytes:
        return b"J" + struct.pack("<i", number)

    content = pixels.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integer(0) + b"\x85" + string(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + string(b"u1") + integer(0) + integer(1) + b"\x87R"
    kind += b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    shape = integer(len(pixels)) + integer(3072) + b"\x86"
    state = b"(" + integer(1) + shape + kind + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"
    numbers = b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + string(b"data") + array + state + string(b"labels") + numbers + b"u."


def write_python(folder: Path, fake: Fake) -> None:
    """Write the official python folder."""
    for name, pixels, labels in fake.batches():
        (folder / name).write_bytes(python2_pickle(pixels, labels))


def write_binary(folder: Path, fake: Fake) -> None:
    """Write the official binary folder."""
    for name, pixels, labels in fake.batches():
        records = [bytes([label]) + image.tobytes() for image, label in zip(pixels, labels, strict=True)]
        (folder / f"{name}.bin").write_bytes(b"".join(records))


def jpeg(pixels: Bytes) -> bytes:
    """Return one image as a JPEG file that keeps its colours but for a level or two."""
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=100, subsampling=0)
    return file.getvalue()


def archive(pixels: Bytes, labels: list[int]) -> dict[str, Any]:
    """Return the arrays of one split of the JPEG form."""
    files = [jpeg(image) for image in pixels]
    return {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": np.array(labels),
        "classes": np.array(CLASSES),
    }


def write_jpeg(folder: Path, fake: Fake) -> None:
    """Write the JPEG form."""
    np.savez(folder / "train.npz", **archive(fake.train, fake.train_labels))
    np.savez(folder / "test.npz", **archive(fake.test, fake.test_labels))


FORMS: dict[str, Callable[[Path, Fake], None]] = {"python": write_python, "binary": write_binary, "jpeg": write_jpeg}
FOLDERS = {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin", "jpeg": "cifar10"}
FILES = {
    "python": [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"],
    "binary": [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"],
    "jpeg": ["train.npz", "test.npz"],
}
