from .fnet_inferer import FNetInferer
from .mask_inferer import MaskInferer
from .mixed_precision import MixedPrecisionInferer
from .slice_inferer import WholeSliceInferer
