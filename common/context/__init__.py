from .clinical import SaveClinicalMetrics, compare_classes, measure_class
from .corruption import (
    PrepareContext,
    RandContextCorruption,
    RandContextPrediction,
    RandContextPredictiond,
    RandContextRestoration,
    RandContextRestorationd,
    draw_poisson_places,
    draw_uniform_places,
)
from .inferer import WholeSliceInferer
from .losses import DiceCrossEntropyLoss, InpaintingLoss
from .network import ContextUNet, StandardizedConv2d
from .pictures import RestorationPicture
from .slices import PrepareClasses, SliceBatchSampler, SliceDataset, SliceRequest, slice_axis
from .transfer import UnfreezeAfter, transfer_context
from .windows import CTWindows, CTWindowsd
