"""Options of F-Net and its autoencoders: of transfer (S-TL) and of multi-task learning (S-MTL)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from common.cli import SHARED_OPTIONS, Option, check_options
from common.cli.options import FLAG, FRACTION, INT, NON_NEGATIVE, POSITIVE, POSITIVE_INT, SIZE, Kind, one_of

__all__ = ["FNET_OPTIONS", "check_options"]

_FACTOR = Kind(
    "a number above 0, or match_init", lambda value: POSITIVE.fits(value) or value in ("match_init", "match_reference")
)
_WEIGHT = Kind("a number from 0, or balance", lambda value: NON_NEGATIVE.fits(value) or value == "balance")

FNET_OPTIONS: Mapping[str, Option] = {
    **SHARED_OPTIONS,
    "patch_size": Option(SIZE, "edges of a patch, in voxels of output", 24),
    "tile_size": Option(SIZE, "edges of a tile in inference, in voxels of output", 64, False, is_shown=True),
    "spacing": Option(POSITIVE.or_null, "edge of a voxel in mm; null: fitted", 2.0),
    "kernel_size": Option(POSITIVE_INT, "edge of a convolution in voxels", 3, is_fixed=True),
    "gain": Option(POSITIVE, "of the initial weights", 1.0),
    "centers": Option(one_of("uniform", "gaussian"), "where patches to reconstruct lie", "gaussian"),
    # winner-take-all autoencoders
    "num_winners": Option(POSITIVE_INT, "activations kept of each feature map and patch", 20),
    # transfer (S-TL)
    "transferred_learning_rate": Option(NON_NEGATIVE, "of transferred convolutions that are not frozen", 8.0e-5),
    "phi": Option(_FACTOR, "factor of the transferred weights", "match_init"),
    "frozen_convs": Option(INT.list, "indices of those frozen in each transferred pathway", [0, 1]),
    "freeze_epochs": Option(INT.or_null, "epochs in which transferred weights do not change, at most; null: all", 10),
    "transfer_levels": Option(INT.list.or_null, "levels to transfer; null: all", [0, 1, 2]),
    # multi-task learning (S-MTL)
    "unlabeled_batch_size": Option(POSITIVE_INT, "patches to reconstruct, of each process", 6),
    "shared_levels": Option(INT.list, "levels of F-Net and the autoencoders, finest first", [0]),
    "tie_norm": Option(FLAG, "share the batch norms, too", True),
    "gamma": Option(_WEIGHT, "weight of the reconstruction loss", 1.0),
    "balance_iterations": Option(POSITIVE_INT, "iterations after which a balanced gamma keeps its value", 200),
    "alternate": Option(FLAG, "step the autoencoders with an optimizer of their own", True),
    "foreground_fraction": Option(FRACTION, "smallest share of the patches that hold labeled voxels", 0.5),
}

check_options = partial(check_options, FNET_OPTIONS)
