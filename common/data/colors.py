"""Colors of labels: one for each value, forever, in pictures and in every file that holds a segmentation."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable

from common.cli import InputError

__all__ = ["Color", "label_color", "label_colors"]

Color = tuple[int, int, int]  # red, green, blue from 0 to 255

# Of the values 1, 2, ...: the seven of Okabe and Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color,
# which color-blind people tell apart; then each as far as possible from those before it and from gray (CIEDE2000).
# These stay: a color that changes here changes in the files and pictures of every network that was ever trained.
_FIRST = bytes.fromhex(
    "d55e00 56b4e9 f0e442 009e73 cc79a7 0072b2 e69f00 8700f0 c3003c 00ff69 787800 00ffff ffa596 9687ff 874b78 78b400 "
    "f0c3ff 3c693c f000ff 875a1e d2f0b4 ff4b5a 008796 5a5aa5 c3b478 5ae1b4 e10087 b4c3ff b4875a 4bb4b4 b42d00 3c8700"
)
_GOLDEN = (5**0.5 - 1) / 2  # turns by which hues are spread evenly, however many there are
_SHADES = ((0.65, 0.95), (1.0, 0.75), (0.45, 0.8))  # saturation and value, by turns


def label_color(value: int) -> Color:
    """Return the color of a label, which depends on its value alone: never on its name or on the other labels.

    Args:
        value: of the label; 0, the background, is black.

    Raises:
        ValueError: when the value is below 0.
    """
    if value < 0:
        raise InputError(f"label must be a whole number from 0, got {value}; number the labels from 1")
    if value == 0:
        return (0, 0, 0)
    if 3 * value <= len(_FIRST):
        red, green, blue = _FIRST[3 * value - 3 : 3 * value]
        return (red, green, blue)
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(value * _GOLDEN % 1, *_SHADES[value % 3]))
    return (red, green, blue)


def label_colors(labels: Iterable[int]) -> dict[int, Color]:
    """Return the color of each label by its value, see `label_color`.

    Args:
        labels: values of the labels, or a mapping with their names.
    """
    return {value: label_color(value) for value in labels}
