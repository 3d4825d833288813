from .fnet_inferer import FNetInferer
from .mixed_precision import MixedPrecisionInferer
from .slice_inferer import WholeSliceInferer
