from .averaging import WeightAveraging
from .case_loop import CaseEvaluator
from .checkpoint import ResumableCheckpoint, SaveBest, SaveLast, SaveSnapshots, register_state, registered_states
from .distributed import WholeBatchLoss, join_processes, leave_processes, parallelize, process_device
from .ensemble import Ensemble
from .full_device import smaller_inferer
from .history import MeanLoss, MetricsLogger
from .measures import LabelMeasures, measure_labels
from .pictures import (
    PLANES,
    OutputPicture,
    OverlayPictures,
    channel_names,
    save_curves,
    save_figure,
    save_overlay,
    show_slice,
)
from .plan import WORKFLOWS, RunPlan, plan_run
from .precision import MixedPrecisionInferer, has_bfloat16
from .preflight import check_run, free_disk
from .report import EvaluationReport, InferenceReport
from .run import LossEvaluator, SegmentationEvaluator, StopOnNonFiniteLoss, TrainingHandlers
from .schedule import MovingAverage, MovingAveragePlateau, ScheduleLR, StopOnPlateau, ValidateAtEnd
from .scores import HausdorffDistanceInMm, SaveScores, SurfaceDice, write_scores
from .segmentation_loss import (
    PartialLabelLoss,
    batch_dice_loss,
    class_weights,
    member_cross_entropy,
    voxel_weights,
)
from .signals import StopOnSignal
from .task import PrepareTask, PretextTask
from .unfreezing import UnfreezeAfter
from .unseen import RefuseLearnedCases, refuse_learned_scans, warn_of_learned_validation
from .weights import (
    LoadWeights,
    check_pretrained_channels,
    copy_weights,
    init_network,
    load_network,
    load_weights,
    match_parts,
    match_weights,
)
from .whole_outputs import NoteOrigins
