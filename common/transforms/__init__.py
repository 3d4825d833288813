from .base import SharedRandomd
from .check_volume import CheckVolumed
from .context_corruption import (
    RandContextCorruption,
    RandContextPrediction,
    RandContextPredictiond,
    RandContextRestoration,
    RandContextRestorationd,
    draw_poisson_places,
    draw_uniform_places,
)
from .crop_body import CropBodyd
from .crop_field_of_view import CropFieldOfViewd
from .ct_windows import CTWindows, CTWindowsd
from .cubic_patches import RandCubePair, sample_cubes
from .ensure_volume import EnsureVolume, EnsureVolumed
from .keep_largest import KeepLargestd
from .keep_organ import KeepOrgand
from .normalize_intensity import ClipAndNormalize, ClipAndNormalized
from .organ_mask import ORGAN_FINDERS, FindOrgand, NormalizeByOrgand, find_body, find_brain
from .patch_pairs import Lattice, RandPatchPair, sample_patches
from .planar_slabs import RandSlabPair, displacement_heatmap, sample_slabs
from .pretext_tasks import RandDistortion, RandJigsaw, RandRelativeLocation, RandRotationTask
from .restore_label_map import RestoreLabelMapd, RestoreProbabilitiesd
from .save_segmentation import SaveSegmentationd
from .simplex_noise import draw_permutation, fractal_noise, simplex_noise
from .split_layers import SplitLayersd
from .star_shape import RandStarShape
from .tumor_layers import LAYERS, RandTumorLayers, RandTumorLayersd, TumorParameters, compose_layers
from .voxel_spacing import IsotropicSpacingd, VoxelSpacingd
