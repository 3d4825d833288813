"""Laws of resampling to cubic voxels."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.transforms import IsotropicSpacingd, VoxelSpacingd


def make_scan():
    affine = torch.diag(torch.tensor([1.0, 2.0, 4.0, 1.0], dtype=torch.float64))
    label = torch.zeros(1, 16, 8, 4)
    label[:, 4:12, 2:6, 1:3] = 2
    image = MetaTensor(torch.randn(1, 16, 8, 4), affine, meta={"filename_or_obj": "/data/scan.nii.gz"})
    return {"image": image, "label": MetaTensor(label, affine)}


def test_voxels_become_cubes_and_labels_keep_their_values():
    out = IsotropicSpacingd(["image", "label"], 2.0, ["bilinear", "nearest"])(make_scan())
    for key in ("image", "label"):
        assert out[key].pixdim.tolist() == [2.0, 2.0, 2.0]
        assert out[key].shape == out["image"].shape
    assert set(out["label"].unique().tolist()) == {0.0, 2.0}
    assert abs(int((out["label"] > 0).sum()) - 64) <= 32  # 8 x 8 x 8 mm in voxels of 8 mm^3


def test_entries_whose_name_begins_with_image_survive():
    """MONAI 1.6 takes `image_path`, which MONAI Label adds, for the metadata of `image` and fails."""
    scan = {**make_scan(), "image_path": "/data/scan.nii.gz", "image_meta_dict": {"a": 1}}
    out = IsotropicSpacingd("image", 2.0)(scan)
    assert out["image_path"] == "/data/scan.nii.gz"
    assert out["image"].pixdim.tolist() == [2.0, 2.0, 2.0]
    assert torch.equal(out["label"], scan["label"])


def test_missing_keys_are_skipped_where_allowed():
    scan = make_scan()
    del scan["label"]
    assert set(IsotropicSpacingd(["image", "label"], 2.0, allow_missing_keys=True)(scan)) == {"image"}


@pytest.mark.parametrize("spacing", [[], [4, 4], [4, 4, 6, 9]])
def test_a_spacing_of_another_number_of_axes_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing must be three lengths in mm, got"):
        VoxelSpacingd("image", spacing)


def test_a_grid_that_no_memory_holds_is_refused_before_it_is_made():
    with pytest.raises(
        ValueError, match=r"scan.nii.gz: resampled scan must .* for a field of view of 16 x 16 x 16 mm; look"
    ):
        IsotropicSpacingd("image", 0.005)(make_scan())
