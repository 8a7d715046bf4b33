"""Every reader of files that the library has, as a function of bytes, with files to begin from.

A reader may refuse what it is given, with the errors that it documents and no others. It may take it, and what it
returns must then be whole. It may not run anything, take for ever, or take more memory than the file is worth.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import adntn
from adntn import machine
from adntn.commands.rules import rule

#: Weights whose program holds more bytes are not made: a file of a kilobyte may well stand for gigabytes.
LARGEST_WEIGHT = 2**22
#: Tensors of imported networks hold so many numbers at most.
LARGEST_TENSOR = 2**12
#: What readers of models and adapters document.
MODEL_ERRORS = "FormatError", "ValueError"


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of file.

    Attributes:
        read: writes the bytes into a folder of its own, reads them, and looks at what it got.
        refusals: the names of the errors that it documents; a subclass is another error.
        seeds: makes files that it takes.
        needs: libraries without which it cannot run.
    """

    read: Callable[[bytes, Path], None]
    refusals: tuple[str, ...]
    seeds: Callable[[], list[bytes]]
    needs: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Whether all libraries that it needs are installed."""
        return all(find_spec(name) is not None for name in self.needs)


def _made(write: Callable[[Path], object], name: str = "file") -> bytes:
    """Return the bytes of a file that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


# generated weights


def _generators() -> list[adntn.Generator]:
    """Return generators whose files have, together, every field that there is."""
    blocks = [adntn.Block({"one": "a b"}, activation="tanh"), adntn.Block({"left": "a r", "right": "b c"})]
    return [
        adntn.MERA((6, 10), bond=2, activation="gelu").with_path("greedy", level=0),
        adntn.AugmentedTTN((4, 6), bond=2, activation="tanh", batch=2),
        adntn.TTN((8, 8), bond=1, share="all", last_activation="sin"),
        adntn.Custom((4, 6), blocks=blocks, sizes={"a": 2, "b": 3, "r": 4, "c": 6}, output="r | c"),
    ]


def _read_weights(blob: bytes, folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(blob)
    for generator, cores in adntn.load(path).values():
        generator.check(cores)
        if generator.report().forward_and_backward.peak_bytes < LARGEST_WEIGHT:
            with np.errstate(all="ignore"):
                assert generator.weight(cores).shape == generator.shape


def _files_of_weights() -> list[bytes]:
    import ml_dtypes  # noqa: F401, PLC0415  (gives NumPy bfloat16)

    dtypes = "float32", "complex128", "bfloat16", "float64"
    weights = [{"a": (one, one.init(dtype=dtype))} for one, dtype in zip(_generators(), dtypes, strict=True)]
    generator = _generators()[0]
    cores = generator.init()
    weights.append({"a": (generator, cores), "b": (generator, cores), "layer.weight": (generator, generator.init(1))})
    return [_made(lambda path, one=one: adntn.save(path, one)) for one in weights]  # type: ignore[misc]


def _command(words: Sequence[str]) -> None:
    """Run a command of the command line, which may end with a word about what is wrong, and no traceback."""
    from adntn.cli import main  # noqa: PLC0415

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            code: object = main(words)
        except SystemExit as stop:
            code = stop.code
    assert code in (0, 1, 2), code


def _read_for_report(blob: bytes, folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(blob)
    _command(["report", str(path)])
    _command(["report", str(path), "--json", "--rows", "3"])


def _read_rule(blob: bytes, folder: Path) -> None:
    made = rule(blob.decode("utf-8", "replace")).options
    if made is not None:
        try:
            made((6, 4))
        except (TypeError, ValueError):
            return  # how options that do not suit a weight are refused


def _rules() -> list[bytes]:
    texts = (
        "*=TTN,bond=4",
        "a.*=MERA,bond=(2,3),activation=('tanh',),layout=split",
        "a=dense",
        "b=LowRank,rank=2",
        "c[0-9]=AugmentedTTN,boundaries=[1],mixing_activation=gelu,factors=((2,3),(4,))",
        "d=Brickwall,depth=3,share=level,last_activation=relu",
    )
    return [text.encode() for text in texts]


# calibrations


def _read_calibration(blob: bytes, folder: Path) -> None:
    path = folder / "machine.json"
    path.write_bytes(blob)
    for found in machine.read(path).values():
        assert found.seconds(1e9, 1e9) > 0


def _calibrations() -> list[bytes]:
    return [machine.text({}).encode(), machine.text({"some": machine.DEFAULT, "other": machine.DEFAULT_GPU}).encode()]


# models of torch and JAX


def _torch_model() -> Any:
    from torch import nn  # noqa: PLC0415

    import adntn_torch  # noqa: PLC0415

    layer = adntn_torch.Linear(6, 4, topology=adntn.TTN.options(bond=2), seed=0)
    return nn.Sequential(layer, nn.BatchNorm1d(4), nn.Linear(4, 2))


def _read_torch_model(blob: bytes, folder: Path) -> None:
    import torch  # noqa: PLC0415

    from adntn_torch import load_compressed  # noqa: PLC0415

    path = folder / "file"
    path.write_bytes(blob)
    model = load_compressed(_torch_model, path).eval()
    if len({parameter.dtype for parameter in model.parameters()}) == 1:
        assert model(torch.ones(1, 6, dtype=model[2].weight.dtype)).shape == (1, 2)


def _torch_models() -> list[bytes]:
    from adntn_torch import save_compressed  # noqa: PLC0415

    frozen = _torch_model()
    frozen[0].eval().freeze()
    return [_made(lambda path, one=one: save_compressed(one, path)) for one in (_torch_model(), frozen)]  # type: ignore[misc]


def _jax_model() -> Any:
    import equinox  # noqa: PLC0415
    import jax  # noqa: PLC0415

    from adntn_jax.equinox import Linear  # noqa: PLC0415

    first = Linear(6, 4, key=jax.random.key(0), topology=adntn.TTN.options(bond=2))
    return equinox.nn.Sequential([first, equinox.nn.Linear(4, 2, key=jax.random.key(1))])


def _read_jax_model(blob: bytes, folder: Path) -> None:
    from adntn_jax.files import load_compressed  # noqa: PLC0415

    path = folder / "file"
    path.write_bytes(blob)
    load_compressed(_jax_model, path)


def _jax_models() -> list[bytes]:
    from adntn_jax.files import save_compressed  # noqa: PLC0415

    return [_made(lambda path: save_compressed(_jax_model(), path))]


# adapters

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def _adapter(kind: str) -> dict[str, bytes]:
    """Return the two files of an adapter: "ours", "spelled" (its network leg by leg) or "lora"."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save  # noqa: PLC0415

    from adntn_torch import adapt, save_adapter  # noqa: PLC0415

    if kind == "lora":
        names = [f"base_model.model.0.lora_{one}.weight" for one in "AB"]
        tensors = {names[0]: torch.ones(2, 6), names[1]: torch.ones(4, 2)}
        config = {
            "peft_type": "LORA",
            "r": 3,
            "lora_alpha": 8,
            "lora_dropout": 0.0,
            "target_modules": ".*0",
            "rank_pattern": {"0": 2},
            "alpha_pattern": {r".*\d": 4},
            "bias": "none",
            "init_lora_weights": True,
        }
        return {CONFIG: json.dumps(config).encode(), TENSORS: save(tensors)}
    model = _base_model()
    options = adntn.TTN.options(bond=2, activation="tanh")
    adapt(model, ["0"], topology=options if kind == "ours" else options.__call__)  # a function is spelled out
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, folder)
        return {name: (Path(folder) / name).read_bytes() for name in (CONFIG, TENSORS)}


def _base_model() -> Any:
    from torch import nn  # noqa: PLC0415

    return nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))


def _adapter_reader(kind: str, file: str) -> Reader:
    """Return the reader of a folder one of whose files is given, and the other as it should be."""
    whole: dict[str, bytes] = {}

    def read(blob: bytes, folder: Path) -> None:
        from adntn_torch import load_adapter  # noqa: PLC0415

        if not whole:
            whole.update(_adapter(kind))
        for name, content in (whole | {file: blob}).items():
            (folder / name).write_bytes(content)
        model = _base_model()
        before = str(model)
        try:
            load_adapter(model, folder)
        except Exception:
            assert str(model) == before, "the model is not as it was"
            raise

    return Reader(read, MODEL_ERRORS, lambda: [_adapter(kind)[file]], ("torch",))


# training


def _trained() -> tuple[Any, Any]:
    import torch  # noqa: PLC0415

    model = _torch_model()
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 6)).square().mean().backward()
    optimiser.step()
    return model, optimiser


def _checkpoint() -> bytes:
    from adntn_torch.training import save_checkpoint  # noqa: PLC0415

    model, optimiser = _trained()
    return _made(lambda path: save_checkpoint(path, model, optimiser=optimiser, position={"step": 1, "best": [0.5]}))


def _read_checkpoint(blob: bytes, folder: Path) -> None:
    """Read a checkpoint and put it back, which changes all or nothing."""
    import torch  # noqa: PLC0415

    from adntn_torch.training import read_checkpoint  # noqa: PLC0415

    path = folder / "checkpoint.pt"
    path.write_bytes(blob)
    checkpoint = read_checkpoint(path)
    model, optimiser = _trained()
    before = [value.clone() for value in model.state_dict().values()]
    try:
        checkpoint.restore(model, optimiser=optimiser)
    except Exception:
        after = model.state_dict().values()
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True)), "half restored"
        raise


def _checkpoints() -> list[bytes]:
    import torch  # noqa: PLC0415

    harmful = io.BytesIO()
    torch.save({"version": 1, "model": _Harmful()}, harmful)
    return [_checkpoint(), harmful.getvalue()]


class _Harmful:
    """What a pickle that means harm would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('a file was run')",)


def _read_contents(blob: bytes, folder: Path) -> None:
    """Read a checkpoint whose parts are given as JSON, which is far more often whole than one of damaged bytes."""
    import torch  # noqa: PLC0415

    try:
        contents = _with_tensors(json.loads(blob))
    except (RecursionError, ValueError):
        return
    made = io.BytesIO()
    torch.save(contents, made)
    _read_checkpoint(made.getvalue(), folder)


def _contents() -> list[bytes]:
    import torch  # noqa: PLC0415

    whole = torch.load(io.BytesIO(_checkpoint()), weights_only=True)
    return [json.dumps(_without_tensors(whole)).encode()]


def _without_tensors(value: Any) -> Any:
    """Return what is in a checkpoint as JSON; numbers as keys and tuples become lists of pairs and lists."""
    if hasattr(value, "numpy"):
        return {"tensor": str(value.dtype).removeprefix("torch."), "of": value.tolist()}
    if isinstance(value, dict):
        texts = all(isinstance(name, str) for name in value)
        pairs = [[name, _without_tensors(one)] for name, one in value.items()]
        return dict(pairs) if texts else {"pairs": pairs}
    if isinstance(value, tuple):
        return {"tuple": [_without_tensors(one) for one in value]}
    return [_without_tensors(one) for one in value] if isinstance(value, list) else value


def _with_tensors(value: Any) -> Any:
    """Return what `_without_tensors` has made JSON of; as it is, where a change has left nothing to be made of it."""
    if isinstance(value, list):
        return [_with_tensors(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {name: _with_tensors(one) for name, one in value.items()}
    make = _TENSORS.get(tuple(value))
    try:
        return made if make is None else make(made)
    except (AttributeError, OverflowError, RuntimeError, TypeError, ValueError):
        return made


def _tensor(made: dict[str, Any]) -> Any:
    import torch  # noqa: PLC0415

    return torch.tensor(made["of"], dtype=getattr(torch, made["tensor"]))


#: By the names in an object, what it stands for.
_TENSORS: dict[tuple[str, ...], Callable[[dict[str, Any]], Any]] = {
    ("tensor", "of"): _tensor,
    ("tuple",): lambda made: tuple(made["tuple"]),
    ("pairs",): lambda made: dict(made["pairs"]),
}


def _read_metrics(blob: bytes, folder: Path) -> None:
    from adntn_torch.training.metrics import keep_lines  # noqa: PLC0415

    path = folder / "metrics.jsonl"
    path.write_bytes(blob)
    keep_lines(path, 2)
    assert blob.startswith(path.read_bytes())


# networks of other libraries


def _read_imported(blob: bytes, folder: Path) -> None:
    """Import a quimb network whose tensors are given by their sizes, indices and tags."""
    import quimb.tensor as qtn  # noqa: PLC0415

    from adntn import interop  # noqa: PLC0415

    try:
        given = json.loads(blob)
        arrays = [np.ones(sizes, dtype) for sizes, _, _, dtype in given["tensors"] if math.prod(sizes) < LARGEST_TENSOR]
        places = zip(arrays, given["tensors"], strict=True)
        network = qtn.TensorNetwork([qtn.Tensor(array, inds, tags) for array, (_, inds, tags, _) in places])
    except Exception:  # no network of quimb, which is what our reader wants
        return
    generator, cores = interop.from_quimb(
        network, given.get("output", ""), shape=given.get("shape"), activations=given.get("activations")
    )
    generator.check(cores)


def _imported() -> list[bytes]:
    tensors = [[[2, 3], ["a", "b"], ["left"], "float32"], [[3, 4], ["b", "c"], ["right"], "float32"]]
    scaled = [*tensors, [[], [], ["scale"], "float32"]]
    made = [
        {"tensors": tensors, "output": "a | c"},
        {"tensors": scaled, "output": [["a"], ["c"]], "shape": [2, 3], "activations": ["tanh"]},
    ]
    return [json.dumps(one).encode() for one in made]


READERS: dict[str, Reader] = {
    "weights": Reader(_read_weights, ("FormatError",), _files_of_weights),
    "weights, for adntn report": Reader(_read_for_report, (), _files_of_weights),
    "rule of adntn compress": Reader(_read_rule, ("ArgumentTypeError",), _rules),
    "calibration": Reader(_read_calibration, ("ValueError", "JSONDecodeError", "UnicodeDecodeError"), _calibrations),
    "model of torch": Reader(_read_torch_model, MODEL_ERRORS, _torch_models, ("torch",)),
    "model of JAX": Reader(_read_jax_model, MODEL_ERRORS, _jax_models, ("equinox",)),
    **{
        f"adapter, {kind}, {'config' if file == CONFIG else 'tensors'}": _adapter_reader(kind, file)
        for kind in ("ours", "spelled", "lora")
        for file in (CONFIG, TENSORS)
    },
    "checkpoint": Reader(_read_checkpoint, ("CheckpointError",), _checkpoints, ("torch",)),
    "checkpoint, part by part": Reader(_read_contents, ("CheckpointError",), _contents, ("torch",)),
    "metrics": Reader(_read_metrics, (), lambda: [b'{"step": 1}\n{"step": 2}\n{"st', b""], ("torch",)),
    "network of quimb": Reader(_read_imported, ("TypeError", "ValueError"), _imported, ("quimb",)),
}
