"""The examples on the path, and a network with narrow hidden layers; all is left out where a library is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

NEEDED = ("torch", "rich", "sklearn", "PIL", "matplotlib", "safetensors", "jinja2")
collect_ignore_glob = [] if all(find_spec(library) for library in NEEDED) else ["*"]

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "examples")]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    import torch  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _narrow() -> Iterator[None]:
    """Both architectures with hidden layers of at most 48, and an allocator that is left as it is."""
    import compress_network  # noqa: PLC0415
    import networks  # noqa: PLC0415

    def build(name: str, *, hidden: int, **options: object) -> networks.ConvolutionalNetwork:
        return getattr(networks, name)(hidden=min(hidden, 48), **options)

    with pytest.MonkeyPatch.context() as patch:
        for name, wide in list(networks.ARCHITECTURES.items()):
            narrower = networks.Architecture(wide.name, partial(build, name), wide.small_width)
            patch.setitem(networks.ARCHITECTURES, name, narrower)
        patch.setattr(compress_network, "keep_freed_memory", lambda: None)
        yield


narrow = pytest.fixture(_narrow, name="narrow")
narrow_module = pytest.fixture(_narrow, scope="module", name="narrow_module")
