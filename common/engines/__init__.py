from .multi_task_update import MultiTaskUpdate
from .prepare_patches import PreparePatches
