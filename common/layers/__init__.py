from .augmentation import EachChannel, EachChanneld
from .collapse import DelayComposition, StopOnCollapsedMask
from .inferer import FittedWindowInferer, MaskInferer, SplitLayersd, fit_window
from .losses import LayerDecompositionLoss, selection_loss
from .network import EncoderClassifier, LayerEncoder, LayerUNet
from .options import LAYERS_OPTIONS, check_options
from .organ import ORGAN_FINDERS, FindOrgand, KeepOrgand, NormalizeByOrgand, find_body, find_brain
from .patches import PatchLoader
from .pictures import LayerPicture, SimulationPicture
from .pretext import (
    JigsawPuzzle,
    JointSegmentation,
    LayerDecomposition,
    RelativeLocation,
    Restoration,
    RotationPrediction,
)
from .shape import RandStarShape, draw_permutation, fractal_noise, simplex_noise
from .simulation import LAYERS, Layers, RandTumorLayers, TumorParameters, compose_layers, split_layers
from .transfer import transfer_unet
