from .descriptor_cache import DescriptorCache
from .descriptors import (
    GreyValueDifference,
    JointDescriptor,
    LearnedCubeDescriptor,
    LearnedDescriptor,
    PositionDescriptor,
    VoxelDescriptor,
    extract_descriptors,
    load_descriptors,
)
from .neighbors import nearest_neighbors, vote, vote_confidence
from .planar_atlas import PlanarAtlas, transfer_descriptors
from .voxel_choice import choose_voxels
from .voxel_grid import VoxelGrid
