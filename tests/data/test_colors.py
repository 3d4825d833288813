"""Laws of the colors of labels: the same value has the same color, and different values have different ones."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from common.data import label_color, label_colors


def test_the_colors_are_those_of_all_files_and_pictures_that_were_ever_written():
    """A change here is a change of the color of an organ in what users have."""
    pinned = {0: (0, 0, 0), 1: (213, 94, 0), 2: (86, 180, 233), 8: (135, 0, 240), 32: (60, 135, 0)}
    assert label_colors(pinned) == pinned
    assert label_colors([33, 104, 300]) == {33: (85, 242, 143), 104: (144, 204, 112), 300: (85, 242, 157)}


def test_the_color_of_a_label_depends_on_its_value_alone():
    few, many = label_colors({3: "liver"}), label_colors({0: "background", 1: "spleen", 3: "kidney", 400: "x"})
    assert few[3] == many[3] == label_color(3)


def test_no_two_of_a_thousand_labels_have_one_color_and_none_is_the_background():
    assert len(set(label_colors(range(1001)).values())) == 1001


@pytest.mark.parametrize(("count", "apart"), [(7, 20), (32, 12)])
def test_the_first_colors_are_told_apart_from_each_other_and_from_the_gray_of_a_scan(count, apart):
    colors = [label_color(value) for value in range(1, count + 1)] + [(gray, gray, gray) for gray in (100, 160, 220)]
    lab = rgb2lab(np.array(colors)[None] / 255)[0]
    distances = deltaE_ciede2000(lab[:, None], lab[None])[:count] + 1000 * np.eye(count, len(lab))
    assert distances.min() > apart


def test_a_negative_label_has_no_color():
    with pytest.raises(ValueError, match=r"label must be a whole number from 0, got -1; number the labels from 1"):
        label_color(-1)
