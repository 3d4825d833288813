from .inpainting import InpaintingLoss
from .reconstruction import ReconstructionLoss
from .task_weight import TaskWeight
