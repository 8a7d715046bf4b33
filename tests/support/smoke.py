"""Does an installation work where nothing else is installed? `python -P smoke.py`, outside of the sources."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import entry_points, files, version
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    """Use what the README shows first, and the command; raise AssertionError where something is missing."""
    import adntn  # noqa: PLC0415  (a script: importing it does nothing)

    assert Path(adntn.__file__).is_relative_to(sysconfig.get_path("purelib")), f"not installed: {adntn.__file__}"
    assert version("adntn") == adntn.__version__
    assert {one.name for one in entry_points(group="adntn.backends")} >= {"cupy", "jax", "torch"}
    here = {str(file) for file in files("adntn") or ()}
    assert {f"{package}/py.typed" for package in ("adntn", "adntn_cupy", "adntn_jax", "adntn_torch")} <= here
    assert any(file.endswith("licenses/LICENSE") for file in here)
    assert not [name for name in ("tests", "benchmarks", "torch", "jax") if find_spec(name)], (
        "more than the wheel is here"
    )

    generator = adntn.MERA((64, 48), bond=2, activation="tanh")
    cores = generator.init(seed=0)
    weight, pullback = generator.vjp(cores)
    assert weight.shape == (64, 48)
    assert set(pullback(weight)) == set(cores)
    print(generator.report())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        adntn.save(path, {"first": (generator, cores)})
        loaded, again = adntn.load(path)["first"]
        assert (loaded.weight(again) == weight).all()
        command = Path(sysconfig.get_path("scripts")) / "adntn"
        for arguments in (
            ["backends"],
            ["report", str(path)],
            ["verify", "--backends", "numpy", "--topologies", "TTN"],
        ):
            subprocess.run([command, *arguments], check=True)
    print(f"adntn {adntn.__version__} works on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
