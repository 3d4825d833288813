from .dice_cross_entropy import DiceCrossEntropyLoss
from .inpainting import InpaintingLoss
from .layer_decomposition import LayerDecompositionLoss, error_to_choose_by
from .reconstruction import ReconstructionLoss
from .task_weight import TaskWeight
from .whole_batch import WholeBatchLoss
