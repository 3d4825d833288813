"""Laws of options that are whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from common.cli import check_whole_numbers
from common.context import ContextUNet, RandContextRestoration, SliceBatchSampler, SliceDataset


@pytest.mark.parametrize("value", ["8", 8.0, 4.5, True, None, [8]])
def test_what_is_no_whole_number_is_refused_by_name(value):
    check_whole_numbers(batch_size=8, patch_size=np.int64(-3))
    with pytest.raises(TypeError, match=r"^patch_size must be a whole number, got "):
        check_whole_numbers(batch_size=8, patch_size=value)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("patch_size", lambda value: RandContextRestoration(value)),
        ("num_groups", lambda value: ContextUNet(1, 1, (4, 8), value)),
        ("features", lambda value: ContextUNet(1, 1, (4, value), 2)),
        ("batch_size", lambda value: SliceBatchSampler(slices(), value)),
        ("num_batches", lambda value: SliceBatchSampler(slices(), 2, value)),
    ],
)
def test_options_of_a_command_line_are_checked(name, use):
    use(4)
    with pytest.raises(TypeError, match=f"{name} must be a whole number, got 'four'"):
        use("four")


def slices():
    return SliceDataset([{"image": torch.zeros(1, 4, 4, 3)}], Compose([]))
