from .crop import CropBodyd, padded_crop
from .ignore import IgnoreUnlabeledd
from .invert import InvertLabelMapd, InvertProbabilitiesd
from .load import LoadVolumesd
from .normalize import ClipAndNormalize, ClipAndNormalized
from .save import SaveConfidenced, SaveProbabilitiesd, SaveSegmentationd
from .spacing import IsotropicSpacingd, VoxelSpacingd
