from .multi_task import MultiTaskUpdate
from .prepare_patches import PreparePatches
