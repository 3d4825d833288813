"""Options of planar descriptors and of the atlas."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from common.cli import SHARED_OPTIONS, Option, check_options
from common.cli.options import NON_NEGATIVE, PATH, POSITIVE, POSITIVE_INT, SIZE, one_of

__all__ = ["PLANAR_OPTIONS", "check_options"]

PLANAR_OPTIONS: Mapping[str, Option] = {
    **SHARED_OPTIONS,
    "spacing": Option(POSITIVE.or_null, "edge of a voxel in mm; null: fitted", 1.5),
    "field_of_view": Option(
        POSITIVE.times(3).or_null, "mm, of a box that all scans show; null: whole", [300, 200, 400]
    ),
    # pretext task
    "task": Option(one_of("heatmap", "reg2d", "doersch"), "what is predicted of a pair of patches", "reg2d"),
    "snapshot_interval": Option(POSITIVE_INT.or_null, "epochs between two files of weights; null: none", 10),
    "half_width": Option(
        POSITIVE, "of a slab in its plane, where the field of view extends from -1 to 1", 0.4, is_fixed=True
    ),
    "half_depth": Option(POSITIVE, "of a slab across its plane", 0.05, is_fixed=True),
    "gap": Option(POSITIVE.range, "of the centers of two slabs across their plane", [0.125, 0.25]),
    "cube_half_width": Option(POSITIVE, "of a cube of doersch", 0.25, is_fixed=True),
    "cube_distance": Option(POSITIVE, "of the centers of neighboring cubes", 0.45),
    "sampling": Option(one_of("bilinear", "nearest"), "of intensities between voxels", "bilinear", is_fixed=True),
    "padding": Option(one_of("zeros", "border"), "beyond the field of view", "zeros", is_fixed=True),
    # atlas
    "preprocessing_like": Option(PATH.or_null, "weights whose record is taken over", "$None"),
    "descriptor": Option(
        one_of("planar", "cubic", "gvdiff", "gvdiff_centered", "coord", "joint"),
        "of a voxel",
        "gvdiff_centered",
        is_fixed=True,
    ),
    "step": Option(SIZE, "voxels between described ones along each axis", 4, is_shown=True),
    "num_neighbors": Option(POSITIVE_INT, "voxels of the atlas that vote", 21, is_shown=True),
    "voting": Option(one_of("majority", "distance"), "weight of a vote", "distance", is_shown=True),
    "descriptor_normalization": Option(one_of("none", "l2", "standardize"), "of descriptors", "l2", is_fixed=True),
    "position_weight": Option(NON_NEGATIVE, "of the coordinates beside the descriptor", 0.0, is_shown=True),
    "search_radius": Option(
        POSITIVE.or_null, "distance from all organs beyond which all is background", 0.2, is_shown=True
    ),
    "smoothing": Option(NON_NEGATIVE, "voxels, over which votes are averaged", 0.0, is_shown=True),
    "background_weight": Option(POSITIVE, "of votes for the background", 1.0, is_shown=True),
    "fusion_weight": Option(
        NON_NEGATIVE, "of labels that registered scans carry over; 0: votes alone", 1.0, is_shown=True
    ),
    "max_background": Option(POSITIVE_INT.or_null, "voxels of the background kept of a scan; null: all", 2000),
    "max_voxels": Option(POSITIVE_INT.or_null, "of the atlas; null: no limit", 10**6),
    "descriptor_cache": Option(PATH.or_null, "folder in which descriptors are kept", "/data/cache"),
    "offset_sigma": Option(POSITIVE, "standard deviation of the offsets of gvdiff", 0.4, is_fixed=True),
}

check_options = partial(check_options, PLANAR_OPTIONS)
