from .neighbors import nearest_neighbors, vote
from .voxel_grid import VoxelGrid
