from .dice_cross_entropy import DiceCrossEntropyLoss
from .inpainting import InpaintingLoss
from .reconstruction import ReconstructionLoss
from .task_weight import TaskWeight
