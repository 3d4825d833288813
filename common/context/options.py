"""Options of context prediction and restoration, and of the U-Net."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from common.cli import SHARED_OPTIONS, Option, check_options
from common.cli.options import FLAG, INT, NON_NEGATIVE, NUMBER, POSITIVE_INT, PROPER_FRACTION, one_of

__all__ = ["CONTEXT_OPTIONS", "check_options"]

CONTEXT_OPTIONS: Mapping[str, Option] = {
    **SHARED_OPTIONS,
    "iterations_per_epoch": Option(POSITIVE_INT.or_null, "minibatches of an epoch; null: every slice once", 25),
    "val_iterations": Option(POSITIVE_INT.or_null, "minibatches of the validation loss; null: every slice", 4),
    "betas": Option(PROPER_FRACTION.times(2), "of Adam", [0.9, 0.999]),
    "patience": Option(POSITIVE_INT, "epochs without an improvement of the validation loss before the end", 20),
    "threshold": Option(NON_NEGATIVE, "smallest improvement of the validation loss", 0.0),
    "axis": Option(one_of(0, 1, 2), "slices of an RAS volume: 2 axial, 1 coronal, 0 sagittal", 1, is_fixed=True),
    "slice_size": Option(
        POSITIVE_INT.times(2).or_null._replace(wanted="height and width in pixels, such as [256, 256], or null"),
        "height and width of a crop; null: all alike",
        [64, 64],
    ),
    "image_channels": Option(POSITIVE_INT, "channels of a scan", 3),
    "in_channels": Option(POSITIVE_INT, "channels of the network: the windows of a CT", 1),
    "windows": Option(
        NUMBER.times(2).list.or_null,
        "width and level in HU, of each window of a CT; null: channels are normalized as they are (MR)",
        [[400, 40]],
        is_fixed=True,
    ),
    "num_groups": Option(POSITIVE_INT, "of channels, in each group norm", 8, is_fixed=True),
    # pretext task
    "patch_size": Option(POSITIVE_INT, "edge in pixels of what is swapped, or emptied", 8),
    "sampling": Option(one_of("poisson", "uniform"), "how places of patches are drawn", "uniform"),
    "body_contrast": Option(NUMBER.or_null, "leaves out slices of air; null: takes all", "$None"),
    # segmentation
    "transferred_parts": Option(
        one_of("encoder", "encoder_decoder", "statistics"), "of the weights", "encoder_decoder"
    ),
    "freeze_epochs": Option(INT, "epochs in which transferred weights do not change, at most", 10),
    "softmax": Option(FLAG, "classes and background exclude one another", True),
    "cross_entropy_weight": Option(NON_NEGATIVE, "of the cross entropy beside the Dice loss", 10.0),
}

check_options = partial(check_options, CONTEXT_OPTIONS)
