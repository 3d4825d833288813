"""Laws of the meshes that ITK rasterizes."""

import pytest

from common.layers import RandStarShape
from tools.benchmark.mesh import MeshRasterizer


def test_a_rasterized_mesh_is_the_body_that_is_filled_voxel_by_voxel():
    pytest.importorskip("itk")
    shape, same = (RandStarShape((4000.0, 4000.0)).set_random_state(0) for _ in range(2))
    rasterize = MeshRasterizer(same)
    for _ in range(3):
        body, mesh = shape((1.0, 1.0, 1.0)).numpy(), rasterize()
        sides = [min(lengths) for lengths in zip(body.shape, mesh.shape, strict=True)]
        body, mesh = (
            mask[tuple(slice((n - side) // 2, (n + side) // 2) for n, side in zip(mask.shape, sides, strict=True))]
            for mask in (body, mesh)
        )
        assert (body & mesh).sum() > 0.93 * (body | mesh).sum()
