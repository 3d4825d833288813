from .check_volume import CheckVolumed
from .crop_body import CropBodyd
from .isotropic_spacing import IsotropicSpacingd
from .normalize_intensity import ClipAndNormalize, ClipAndNormalized
from .restore_label_map import RestoreLabelMapd
