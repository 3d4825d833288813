"""Laws of options that are one of a few words."""

from __future__ import annotations

import pytest

from common.cli import check_choice


def test_a_word_that_is_no_choice_is_refused_by_the_name_of_its_option():
    check_choice("task", "heatmap", ["heatmap", "reg2d"])
    check_choice("task", "heatmap", {"heatmap": 1, "reg2d": 2})
    for value in ("heat", None, 3):
        with pytest.raises(ValueError, match=rf"task must be one of heatmap, reg2d, got {value!r}"):
            check_choice("task", value, ["heatmap", "reg2d"])
