from .clinical import SaveClinicalMetrics, compare_classes, measure_class
from .corruption import (
    InpaintingTask,
    RandContextCorruption,
    RandContextPrediction,
    RandContextRestoration,
    draw_poisson_places,
    draw_uniform_places,
)
from .inferer import WholeSliceInferer
from .losses import DiceCrossEntropyLoss, InpaintingLoss
from .network import ContextUNet, StandardizedConv2d
from .options import CONTEXT_OPTIONS, check_options
from .pictures import RestorationPicture
from .restoration_errors import SaveRestorationErrors, restoration_error
from .slices import SliceBatchSampler, SliceDataset, SliceLoader, SliceRequest, SliceSegmentation, slice_axis
from .transfer import transfer_context
from .windows import CTWindowsd
