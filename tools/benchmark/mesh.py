"""Meshes that are rasterized, as the published pipeline of layer decomposition makes its shapes."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial import ConvexHull

from common.layers import RandStarShape, fractal_noise

__all__ = ["MeshRasterizer"]


class MeshRasterizer:
    """Fill the bodies of a `RandStarShape` as the published pipeline does: a sphere's mesh is moved, then rasterized.

    Args:
        shape: says which body; its volume is corrected here for the noise, but not for the voxels.
    """

    NUM_VERTICES = 2562

    def __init__(self, shape: RandStarShape) -> None:
        import itk  # the machine of the measurement may have none

        self.itk = itk
        self.mesh_type = itk.Mesh[itk.F, 3]
        self.shape = shape
        index = np.arange(self.NUM_VERTICES) + 0.5
        height, angle = 1 - 2 * index / self.NUM_VERTICES, math.pi * (1 + math.sqrt(5)) * index
        radius = np.sqrt(1 - height**2)
        sphere = np.stack((radius * np.cos(angle), radius * np.sin(angle), height), axis=1)
        corners = ConvexHull(sphere).simplices
        first, second, third = (sphere[corners[:, corner]] for corner in range(3))
        inward = (np.cross(second - first, third - first) * first).sum(axis=1) < 0
        corners[inward] = corners[inward, ::-1]
        kind = int(itk.CommonEnums.CellGeometry_TRIANGLE_CELL)
        self.cells = np.insert(corners, 0, [[kind], [3]], axis=1).astype(np.uint64)
        self.sphere = torch.from_numpy(sphere).float()

    def __call__(self) -> np.ndarray:
        """Draw a body and return its mask, with voxels of 1 mm."""
        shape = self.shape
        shape.randomize()
        noise = fractal_noise(
            self.sphere + torch.from_numpy(shape.offset).float(),
            torch.from_numpy(shape.permutation),
            shape.num_octaves,
        )
        radii = 1 + shape.roughness * noise.numpy()
        volume = (radii**3).mean() * 4 / 3 * math.pi * shape.axes.prod()
        semi_axes = shape.axes * (shape.volume_mm3 / volume) ** (1 / 3)
        return self.rasterize((self.sphere.numpy() * radii[:, None] * semi_axes) @ shape.rotation.T)

    def rasterize(self, vertices: np.ndarray) -> np.ndarray:
        """Return the mask of moved vertices of shape `(2562, 3)`, in a box around the origin."""
        itk, half = self.itk, np.ceil(np.abs(vertices).max(axis=0))
        mesh = self.mesh_type.New()
        mesh.SetPoints(itk.vector_container_from_array(vertices.astype(np.float32).ravel()))
        mesh.SetCellsArray(itk.vector_container_from_array(self.cells.ravel()))
        fill = itk.TriangleMeshToBinaryImageFilter[self.mesh_type, itk.Image[itk.F, 3]].New(mesh)
        fill.SetOrigin((-half).tolist())
        fill.SetSize([int(2 * count + 1) for count in half])
        fill.Update()
        return itk.array_from_image(fill.GetOutput()).T > 0
