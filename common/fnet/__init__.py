from .augmentation import PatchAugmentation
from .autoencoder import SparseDecoder, WTAAutoencoder, WTAAutoencoders, winner_take_all
from .ensemble import FNetEnsemble
from .inferer import FNetInferer
from .losses import ReconstructionLoss
from .multi_task import MultiTaskFNet, MultiTaskUpdate, TaskWeight
from .network import FNet, FNetGeometry
from .options import FNET_OPTIONS, check_options
from .patches import PatchBatchSampler, PatchDataset, PatchLoader, PatchReconstruction, PatchRequest, PatchSegmentation
from .pictures import KernelPicture, ReconstructionPicture
from .pyramid import Pyramid
from .transfer import parameter_groups, transfer_extraction
