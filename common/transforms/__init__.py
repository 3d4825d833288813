from .check import CheckVolumed
from .crop import CropBodyd, padded_crop
from .ensure_volume import EnsureVolume, EnsureVolumed
from .invert import InvertLabelMapd, InvertProbabilitiesd
from .normalize import ClipAndNormalize, ClipAndNormalized
from .save import SaveSegmentationd
from .spacing import IsotropicSpacingd, VoxelSpacingd
