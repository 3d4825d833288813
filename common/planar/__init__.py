from .atlas import Neighborhood, PlanarAtlas, transfer_descriptors
from .cubes import RandCubePair, sample_cubes
from .descriptor_cache import DescriptorCache
from .descriptors import (
    GrayValueDifference,
    JointDescriptor,
    LearnedCubeDescriptor,
    LearnedDescriptor,
    PositionDescriptor,
    VoxelDescriptor,
    extract_descriptors,
    load_descriptors,
)
from .field_of_view import CropFieldOfViewd, FieldOfView, Place, fit_field_of_view, load_field_of_view
from .inferer import AtlasInferer
from .neighbors import nearest_neighbors
from .networks import (
    CubicDescriptor,
    HeatmapDecoder,
    NeighborClassifier,
    OffsetRegressor,
    PlanarDescriptor,
    SiameseNetwork,
    TriplanarPretext,
)
from .options import PLANAR_OPTIONS, check_options
from .pairs import Lattice, PairLoader, PairTask, RandPatchPair, sample_patches
from .pictures import CubePicture, EmbeddingPicture, SlabPicture
from .slabs import RandSlabPair, displacement_heatmap, sample_slabs
from .training import AtlasCheckpoint, AtlasUpdate
from .tuning import VOTE_OPTIONS, VoteTuner
from .voting import vote
from .voxels import VoxelGrid, choose_voxels
