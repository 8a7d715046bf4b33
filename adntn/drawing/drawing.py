"""Drawings: what `Generator.draw` returns. Notebooks show them; they are saved, or painted into other figures."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adntn.arrays import Array
from adntn.atomic import whole_file
from adntn.drawing.levels import network_picture
from adntn.drawing.records import curves_picture, read_records
from adntn.drawing.sample import weight_picture
from adntn.drawing.steps import costs_picture
from adntn.machine import machine

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.figure import Figure, FigureBase

    from adntn.drawing.painting import Picture
    from adntn.generator import Generator

#: Files that can be written, by their ending.
ENDINGS = (".svg", ".png")
#: Dots to the inch of a PNG: of a file, and in a notebook, which keeps a copy of every picture.
RESOLUTION, NOTEBOOK_RESOLUTION = 150, 80


@dataclass(frozen=True, repr=False)
class Drawing:
    """A picture, not yet painted; matplotlib is needed from `figure` on.

    >>> import adntn
    >>> drawing = adntn.MERA((16, 16), bond=2).draw()
    >>> drawing, len(drawing.picture.boxes)
    (<network: MERA: 16 x 16 from 117 parameters>, 11)

    Attributes:
        picture: what is drawn, as values: cores and legs with their places, costs, numbers of a weight, or curves.
    """

    picture: Picture

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Write the drawing to a file, as SVG or PNG by its ending; the file is there as a whole or not at all.

        Raises:
            ValueError: if the ending is another.
            ImportError: if matplotlib is not installed.
            OSError: if the file cannot be written.
        """
        path = check_file(file)
        data = self._painted(path.suffix.lower()[1:], RESOLUTION)
        with whole_file(path) as partial:
            partial.write_bytes(data)
        return path

    def figure(self) -> Figure:
        """Return the drawing as a figure of matplotlib.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        made: Figure = painting().figure_of(self.picture)
        return made

    def paint(self, figure: FigureBase) -> None:
        """Paint the drawing into a figure of matplotlib, or a subfigure, of about the drawing's own shape.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        with painting().own_style():
            painting().paint(self.picture, figure)

    def __repr__(self) -> str:
        kind = type(self.picture).__name__.removesuffix("Picture").lower()
        return f"<{kind}: {self.picture.title.partition(chr(10))[0]}>"

    def _painted(self, kind: str, resolution: int) -> bytes:
        figure = self.figure()
        data = io.BytesIO()
        with painting().own_style():
            figure.savefig(data, format=kind, dpi=resolution, metadata={"Date": None} if kind == "svg" else None)
        return data.getvalue()

    def _repr_png_(self) -> bytes:
        small: bytes = painting().in_few_colours(self._painted("png", NOTEBOOK_RESOLUTION))
        return small


def painting() -> ModuleType:
    """Return the module that paints.

    Raises:
        ImportError: if matplotlib is not installed; the message says what to install.
    """
    try:
        import matplotlib  # noqa: F401, PLC0415
    except ImportError as error:
        raise ImportError('matplotlib is not installed; try: pip install "adntn[drawing]"') from error
    from adntn.drawing import painting  # noqa: PLC0415  (it imports matplotlib, which is optional)

    return painting


def check_file(file: str | os.PathLike[str]) -> Path:
    """Return the path of a file to draw into.

    Raises:
        ValueError: if its ending is neither .svg nor .png.
    """
    path = Path(file)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"file must end in {' or '.join(ENDINGS)}, got {str(path)!r}")
    return path


def network(generator: Generator) -> Drawing:
    """Return a drawing of a generator's network, from the top core to the weight's rows and columns.

    >>> import adntn
    >>> network(adntn.TTN((16, 16), bond=2)).picture.title
    'TTN: 16 x 16 from 53 parameters'

    Each core stands in its level, across its legs; a core that is shared stands at all its places. Legs are the thicker
    the larger they are. Beside each level is how many numbers are stored for it, and what state it leaves.
    """
    return Drawing(network_picture(generator.network))


def costs(generator: Generator, *, backend: str = "numpy", itemsize: int = 4) -> Drawing:
    """Return a drawing of what each step of a generator's program costs, in the order in which they run.

    >>> import adntn
    >>> costs(adntn.TTN((16, 16), bond=2)).picture.total.operations
    12632

    The steps are those of `generator.program`, which makes the weight in one piece.

    Args:
        generator: whose program.
        backend: the array library whose calibration is used for the seconds (see `adntn calibrate`).
        itemsize: bytes of a number.

    Raises:
        ValueError: if `itemsize` is no positive integer.
        ImportError: if there is no such backend.
    """
    if isinstance(itemsize, bool) or not isinstance(itemsize, int) or itemsize < 1:
        raise ValueError(f"itemsize must be a positive number of bytes, such as 4 or 8, got {itemsize!r}")
    dtype = "float64" if itemsize > 4 else "float32"
    title = str(generator.network).partition("\n")[0]
    return Drawing(costs_picture(title, generator.program, machine(backend, dtype), itemsize))


def weight(generator: Generator, cores: Mapping[str, Array]) -> Drawing:
    """Return a drawing of a generated weight, as a matrix: its first dimension, and all others.

    >>> import adntn
    >>> generator = adntn.TTN((4096, 4096), bond=4)
    >>> weight(generator, generator.init()).picture.values.shape
    (512, 512)

    Each point is a number of the weight. Of a large weight 512 rows and 512 columns are drawn at random, one from each
    of as many equal runs; only these rows are generated, some at a time.

    Args:
        generator: of the weight.
        cores: its cores, of any library.

    Raises:
        KeyError, ValueError, TypeError: if the cores are not this generator's.
        ValueError: if the weight is not finite.
    """
    return Drawing(weight_picture(str(generator.network).partition("\n")[0], generator, cores))


def curves(records: str | os.PathLike[str] | Iterable[Any], title: str = "training") -> Drawing:
    """Return a drawing of what a training has recorded: loss, validation, rates, lengths of gradients, against steps.

    >>> curves([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]).picture.panels[0].name
    'loss'

    Args:
        records: the file that `adntn_torch.training.run(metrics=...)` or Lightning's CSVLogger has written (.jsonl,
            .csv); what `run` returns; the `log_history` of a Trainer of transformers; or any mappings with a "step".
        title: above the curves.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no such file, or there is no number that belongs to a step.
        TypeError: if a record is no mapping.
    """
    if isinstance(records, str | os.PathLike):
        return Drawing(curves_picture(title, read_records(records)))
    return Drawing(curves_picture(title, map(_as_mapping, records)))


def _as_mapping(record: Any) -> Mapping[str, Any]:
    if is_dataclass(record) and not isinstance(record, type):
        return asdict(record)
    if not isinstance(record, Mapping):
        raise TypeError(f'records must be mappings such as {{"step": 1, "loss": 0.5}}, got {record!r}')
    return record
