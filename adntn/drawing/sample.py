"""A generated weight as an image: every number of a small one, a sample of a large one.

Of a large weight one row is drawn from each of as many equal runs of rows as the image is high, and columns likewise.
Rows at equal distances would not do: where legs are powers of two, they are the rows of which the last legs are all 0.
Only the rows that are shown are generated, a few at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adntn.arrays import Array
from adntn.files.file import on_host

if TYPE_CHECKING:
    from adntn.generator import Generator

#: The most rows and columns of an image.
LARGEST = 512
#: Numbers of the weight that are generated at a time.
AT_A_TIME = 2**22
#: The share of the numbers that the colours tell apart; the few beyond have the last colour.
TOLD_APART = 0.995


@dataclass(frozen=True, eq=False)
class WeightPicture:
    """Numbers of a weight, read as a matrix: its first dimension, and all others.

    Attributes:
        title: what is shown.
        values: shape (rows, columns), real; of complex weights, absolute values. The weights of a batch stand below one
            another.
        rows: the number of each row in the matrix; of a batch, in each weight.
        columns: the number of each column.
        limit: the colours reach from -limit to limit.
    """

    title: str
    values: NDArray[np.floating]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    limit: float


def weight_picture(title: str, generator: Generator, cores: Mapping[str, Array]) -> WeightPicture:
    """Return the picture of a generator's weight.

    Args:
        title: of the picture.
        generator: of the weight.
        cores: its cores, of any library.

    Raises:
        KeyError, ValueError, TypeError: if the cores are not this generator's.
        ValueError: if the weight is not finite.
    """
    generator.check(cores)
    network = generator.network
    height, width = network.layout.shape[0], math.prod(network.layout.shape[1:])
    rows = drawn(height, max(LARGEST // (network.batch or 1), 1))
    columns = drawn(width, LARGEST)
    host = {name: on_host(core) for name, core in cores.items()}
    count = max(AT_A_TIME // (width * (network.batch or 1)), 1)
    parts = []
    for first in range(0, len(rows), count):
        made = generator.rows(host, rows[first : first + count])
        parts.append(np.reshape(made, (network.batch or 1, -1, width))[..., columns])
    values = np.reshape(np.concatenate(parts, axis=1), (-1, len(columns)))
    values = np.abs(values) if np.iscomplexobj(values) else values.astype(np.promote_types(values.dtype, "float32"))
    if not np.isfinite(values).all():
        raise ValueError("cores make a weight that is not finite, of which there is no picture")
    limit = float(np.quantile(np.abs(values), TOLD_APART)) or float(np.abs(values).max()) or 1.0
    return WeightPicture(title + _what_of(network.batch, rows, height, columns, width), values, rows, columns, limit)


def drawn(count: int, most: int) -> NDArray[np.intp]:
    """Return all numbers below `count`, or one drawn from each of `most` equal runs of them; always the same ones.

    >>> drawn(3, 5).tolist(), drawn(1000, 4).tolist()
    ([0, 1, 2], [212, 409, 627, 817])
    """
    if count <= most:
        return np.arange(count)
    borders = np.arange(most + 1) * count // most
    return np.random.default_rng(0).integers(borders[:-1], borders[1:])


def _what_of(batch: int | None, rows: NDArray[np.intp], height: int, columns: NDArray[np.intp], width: int) -> str:
    words = []
    if batch is not None:
        words.append(f"{batch} weights below one another")
    if len(rows) < height or len(columns) < width:
        words.append(f"{len(rows):,} of {height:,} rows and {len(columns):,} of {width:,} columns, drawn evenly")
    return "".join(f"\n{line}" for line in words)
