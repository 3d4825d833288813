from .atlas_update import AtlasUpdate
from .multi_task_update import MultiTaskUpdate
from .prepare_classes import PrepareClasses
from .prepare_context import PrepareContext
from .prepare_layers import PrepareJointLabels, PrepareLayers
from .prepare_patches import PreparePatches
from .prepare_task import PrepareTask
