"""Laws of options that are true or false."""

from __future__ import annotations

import pytest

from common.cli import check_flags
from common.data import Cases
from common.fnet import FNet, MultiTaskFNet
from common.training import MixedPrecisionInferer, ResumableCheckpoint


@pytest.mark.parametrize("value", ["false", "no", 0, None])
def test_what_only_counts_as_true_or_false_is_refused_by_name(value):
    check_flags(resume=True, amp=False)
    with pytest.raises(TypeError, match=rf"amp must be True or False, got {value!r}"):
        check_flags(resume=True, amp=value)


@pytest.mark.parametrize(
    "use",
    [
        lambda flag: ResumableCheckpoint("training.ckpt", {}, resume=flag),
        lambda flag: MixedPrecisionInferer(flag),
        lambda flag: MultiTaskFNet(FNet(1, 2, (2, 2), 3), (0,), tie_norm=flag),
        lambda flag: Cases("", {}, "", [], [], [], []).pretraining(flag),
    ],
    ids=["resume", "amp", "tie_norm", "include_val_images"],
)
def test_options_of_a_command_line_are_checked(use):
    use(False)
    with pytest.raises(TypeError, match="must be True or False, got 'false'"):
        use("false")
