from .atlas_checkpoint import AtlasCheckpoint
from .checkpoint import ResumableCheckpoint, SaveBest, SaveLast, SaveSnapshots
from .clinical import SaveClinicalMetrics
from .guard import StopOnNonFiniteLoss
from .layer_guards import DelayComposition, StopOnCollapsedMask
from .mean_loss import MeanLoss
from .pictures import (
    EmbeddingPicture,
    KernelPicture,
    LayerPicture,
    OverlayPictures,
    PairPicture,
    ReconstructionPicture,
    RestorationPicture,
    SimulationPicture,
)
from .record import TrainingRecord
from .report import InferenceReport
from .schedule import MovingAveragePlateau, ScheduleLR, StopOnPlateau
from .scores import SaveScores
from .state import register_state, registered_states
from .unfreeze import UnfreezeAfter
from .validate_at_end import ValidateAtEnd
from .weights import LoadWeights
