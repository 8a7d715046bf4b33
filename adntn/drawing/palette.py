"""The colours of pictures, all on a paper of their own.

A picture without a paper takes the page's, light or dark. No colour of text has a contrast of 4.5 : 1, which the Web
Content Accessibility Guidelines want, on white and on a dark page alike: at best it is 4.4 on both. So a picture brings
its paper with it, and everything on it keeps its contrast wherever it is shown.
"""

from __future__ import annotations

from adntn.drawing.arrangement import Kind

PAPER = "#ffffff"
#: Text and lines; text that says less.
INK, PALE_INK = "#24292f", "#57606a"
#: What separates parts, and carries no meaning by itself.
RULE = "#d0d7de"
ACTIVATION = "#8a6a00"
KINDS: dict[Kind, str] = {
    "top": "#c2410c",
    "isometry": "#1d6fa5",
    "disentangler": "#2f7d3f",
    "gate": "#7c3aed",
    "core": "#0f766e",
}
#: Of the weight's dimensions, in order.
DIMENSIONS = ("#be185d", "#4338ca", "#0e7490", "#a16207", "#4d7c0f", "#57606a")
#: Of curves, in order; again from the first for more.
CURVES = ("#1d6fa5", "#c2410c", "#2f7d3f", "#7c3aed", "#0e7490", "#be185d")
#: From the most negative number over 0 to the most positive one.
NEGATIVE, ZERO, POSITIVE = "#0b3c6f", "#f7f7f7", "#8c1d18"


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, from 1 (the same) to 21 (black on white).

    >>> contrast("#000000", "#ffffff"), round(contrast("#777777", "#ffffff"), 2)
    (21.0, 4.48)

    Args:
        one: as #rrggbb.
        other: likewise.

    Source: Web Content Accessibility Guidelines 2.2, relative luminance and contrast ratio.
    """
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
