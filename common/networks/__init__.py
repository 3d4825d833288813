from .context_transfer import transfer_context
from .context_unet import ContextUNet, StandardizedConv2d
from .encoder_classifier import EncoderClassifier
from .fnet import FNet, FNetGeometry
from .layer_unet import LayerEncoder, LayerUNet, transfer_unet
from .multi_task import MultiTaskFNet
from .parallel import parallelize
from .planar_descriptor import (
    CubicDescriptor,
    HeatmapDecoder,
    NeighborClassifier,
    OffsetRegressor,
    PlanarDescriptor,
    SiameseNetwork,
    TriplanarPretext,
)
from .pyramid import Pyramid
from .transfer import RANDOM, is_scratch, load_network, load_weights, parameter_groups, transfer_extraction
from .wta_autoencoder import SparseDecoder, WTAAutoencoder, WTAAutoencoders, winner_take_all
