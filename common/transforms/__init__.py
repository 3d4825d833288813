from .base import SharedRandomd
from .check import CheckVolumed
from .crop import CropBodyd
from .ensure_volume import EnsureVolume, EnsureVolumed
from .invert import RestoreLabelMapd, RestoreProbabilitiesd
from .normalize import ClipAndNormalize, ClipAndNormalized
from .save import SaveSegmentationd
from .spacing import IsotropicSpacingd, VoxelSpacingd
