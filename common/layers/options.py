"""Options of layer decomposition and of the networks that are fine-tuned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from common.cli import SHARED_OPTIONS, Option, check_options
from common.cli.options import (
    FLAG,
    FRACTION,
    INT,
    NON_NEGATIVE,
    PATH,
    POSITIVE,
    POSITIVE_INT,
    PROPER_FRACTION,
    SIZE,
    Kind,
    one_of,
)

__all__ = ["LAYERS_OPTIONS", "check_options"]

_RANGES = NON_NEGATIVE.range.list

INTENSITY_RATIO = Kind(
    f"{_RANGES.wanted}, or one such list for each channel",
    lambda value: _RANGES.fits(value) or _RANGES.list.fits(value),
).or_null
_NORM = Kind(
    'batch, instance or ["group", {"num_groups": 8}]',
    lambda value: value in ("batch", "instance") or (isinstance(value, Sequence) and len(value) == 2),
)

LAYERS_OPTIONS: Mapping[str, Option] = {
    **SHARED_OPTIONS,
    "save_dir": Option(PATH, "folder of the pretrained weights", "/data/models/adapted", False),
    "organ_dir": Option(
        PATH.or_null, "folder with a mask of the organ for each scan, of the same name", "/data/organs", False
    ),
    "organ": Option(one_of("brain", "body", "given"), "where tumors may lie, in scans without a mask of it", "body"),
    "spacing": Option(
        NON_NEGATIVE.times(3).or_null,
        "edges of a voxel in mm, 0 keeps the scan's; null: nothing is resampled",
        [2, 2, 0],
    ),
    "patch_size": Option(SIZE, "edges of a patch in voxels", [64, 64, 16]),
    # network
    "kernel_sizes": Option(SIZE.list.or_null, "of each level; null: 3", [[3, 3, 1], [3, 3, 3], 3, 3], is_fixed=True),
    "strides": Option(
        SIZE.list.or_null, "of the pooling below each level but the last; null: 2", [[2, 2, 1], 2, 2], is_fixed=True
    ),
    "norm": Option(_NORM, "of feature maps", "instance", is_fixed=True),
    # simulated tumors
    "volume": Option(POSITIVE.range, "mm^3, smallest and largest", [300, 100000]),
    "axis_ratio": Option(POSITIVE.range, "of the second and third semi-axis to the first", [0.3, 1.0]),
    "octaves": Option(POSITIVE_INT.range, "of the noise that roughens the surface", [1, 3]),
    "roughness": Option(FRACTION, "how far the noise moves the surface, as a share of the radius", 0.3),
    "num_tumors": Option(POSITIVE_INT.range, "smallest and largest number in a patch", [1, 3]),
    "tumor_prob": Option(FRACTION, "of a patch", 0.5),
    "alpha": Option(POSITIVE.range, "lowest and highest opacity", [0.2, 0.5]),
    "intensity_ratio": Option(
        INTENSITY_RATIO,
        "ranges of the mean over the organ's, of all channels or of each; null: the donor's",
        [[0.5, 0.8], [1.2, 1.5]],
    ),
    "elastic": Option(NON_NEGATIVE, "mm, of the displacements that deform the texture", 0.0),
    "blur": Option(NON_NEGATIVE.range, "mm, of the texture", [0.0, 0.0]),
    "edge_blur": Option(NON_NEGATIVE.range, "mm, of the border", [0.0, 3.0]),
    "tumor_target": Option(one_of("texture", "blended"), "of the tumor's layer", "blended"),
    # pretraining
    "task": Option(one_of("layers", "restoration", "rotation", "location", "jigsaw"), "pretext task", "rotation"),
    "organ_weight": Option(NON_NEGATIVE, "of the loss of the organ without its tumor, L0", 0.0),
    "tumor_weight": Option(NON_NEGATIVE, "of the loss of the tumor, L1", 0.0),
    "mask_weight": Option(NON_NEGATIVE, "of the Dice loss of the mask, L2", 0.5),
    "composition_weight": Option(NON_NEGATIVE, "of the loss of the composition, L3", 0.0),
    "cross_entropy_weight": Option(NON_NEGATIVE, "of the cross entropy of the mask, beside L2", 1.0),
    "composition_delay": Option(INT, "epochs before the loss of the composition counts", 20),
    # adaptation
    "adapted": Option(PATH, "pretrained weights to start from", "/data/models/pretrained/layer_unet.pt"),
    "real_batch_size": Option(POSITIVE_INT, "real scans beside each minibatch of simulations, of each process", 2),
    # fine-tuning
    "transferred": Option(one_of("encoder", "network"), "part of the pretrained weights to start from", "network"),
    "normal_batch_size": Option(POSITIVE_INT, "scans with simulated tumors in each minibatch, of each process", 1),
    # inference
    "roi_size": Option(SIZE, "smallest edges of the sliding window in voxels", [96, 96, 16], is_shown=True),
    "overlap": Option(PROPER_FRACTION, "of the sliding windows", 0.25, is_shown=True),
    "organ_margin": Option(
        NON_NEGATIVE.or_null,
        "mm around the organ, beyond which all is background; null: everywhere",
        5.0,
        is_shown=True,
    ),
    "max_findings": Option(POSITIVE_INT.or_null, "the largest ones that are kept; null: all", 1, is_shown=True),
    "layers": Option(FLAG, "write the organ without its tumor, and the tumor, too", True, False),
}

check_options = partial(check_options, LAYERS_OPTIONS)
