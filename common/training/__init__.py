from .checkpoint import ResumableCheckpoint, SaveBest, SaveLast, SaveSnapshots, register_state, registered_states
from .distributed import WholeBatchLoss, join_processes, leave_processes, parallelize, process_device
from .guard import StopOnNonFiniteLoss
from .history import MeanLoss, TrainingRecord
from .pictures import PLANES, OutputPicture, OverlayPictures, save_curves, save_figure, save_overlay, show_slice
from .precision import MixedPrecisionInferer, has_bfloat16
from .report import InferenceReport
from .schedule import MovingAverage, MovingAveragePlateau, ScheduleLR, StopOnPlateau, ValidateAtEnd
from .scores import HausdorffDistanceInMm, SaveScores
from .task import PrepareTask
from .weights import LoadWeights, load_network, load_weights
