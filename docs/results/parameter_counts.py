"""Count what generators store at the paper's layer shapes and write the page beside this file."""

from __future__ import annotations

from pathlib import Path

import adntn

SHAPES = {
    "AlexNet, VGG-16: second fully connected": (4096, 4096),
    "VGG-16: first fully connected": (4096, 25088),
    "AlexNet: first fully connected": (4096, 9216),
    "VGG-16: last fully connected": (1000, 4096),
    "VGG-16: large convolution": (512, 512, 3, 3),
    "MiniLM: embedding table": (30522, 384),
}
TOPOLOGIES = {"TTN": adntn.TTN, "aTTN": adntn.AugmentedTTN, "MERA": adntn.MERA}
BONDS = (2, 4, 8)


def table() -> str:
    """Return the page: one row for each shape and topology, parameters and ratio for each bond."""
    head = "| layer | shape | topology | " + " | ".join(f"bond {bond}" for bond in BONDS) + " | padding |"
    rows = [head, "|" + "---|" * (len(BONDS) + 4)]
    for layer, shape in SHAPES.items():
        for name, topology in TOPOLOGIES.items():
            generators = [topology(shape, bond=bond) for bond in BONDS]
            counts = (f"{generator.parameters:,} ({generator.ratio:,.0f}x)" for generator in generators)
            padding = max(generator.network.layout.padding for generator in generators)
            shown = " x ".join(map(str, shape))
            rows.append(f"| {layer} | {shown} | {name} | {' | '.join(counts)} | {padding:.1%} |")
    return "\n".join(rows)


def main() -> None:
    """Write parameter_counts.md beside this file."""
    text = (
        "# What is stored\n\n"
        "Made by `python docs/results/parameter_counts.py`: parameters, scale included, and weights per parameter.\n"
        "Padding is the largest share of generated numbers that is cropped away, over the three bonds.\n\n"
        f"{table()}\n"
    )
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
