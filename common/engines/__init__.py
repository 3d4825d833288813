from .prepare_patches import PreparePatches
