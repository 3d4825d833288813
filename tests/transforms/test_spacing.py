"""Laws of resampling to cubic voxels."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.data import IGNORED
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


def _sparse(axis: int, every: int, edges: tuple[float, float, float], channels: int = 1) -> dict[str, MetaTensor]:
    """Return a scan of which every so many slices along an axis are labeled, each with its number."""
    label = torch.full((24, 24, 24), float(IGNORED)).movedim(axis, 0)
    for index in range(1, 24, every):
        label[index] = index
    label = label.movedim(0, axis).expand(channels, -1, -1, -1).clone()
    affine = torch.diag(torch.tensor([*edges, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-40.0, 7.0, 3.5])
    return {"image": MetaTensor(torch.rand(1, 24, 24, 24), affine), "label": MetaTensor(label, affine)}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("every", [2, 4, 7])
@pytest.mark.parametrize("edge", [1.0, 2.0, 3.0, 4.0])
def test_no_labeled_slice_falls_between_larger_voxels(axis, every, edge):
    """Slices of 3 mm on a grid of 4 mm: each voxel takes the nearest slice, and every fourth one is none's nearest."""
    edges = tuple(edge if other == axis else 1.5 for other in range(3))
    scan = _sparse(axis, every, edges)
    found = VoxelSpacingd(["image", "label"], [4.0, 4.0, 4.0], ["bilinear", "nearest"])(scan)["label"]
    labeled = sorted(set(scan["label"].unique().tolist()) - {IGNORED})
    kept = found[0].movedim(axis, 0)
    if every * edge > 4:  # else two may lie in one voxel, in which one stays
        assert set(kept.unique().tolist()) == {*labeled, IGNORED}
    for index, plane in enumerate(kept):  # of whole slices, each within half a voxel of the center it has now
        (value,) = plane.unique().tolist()
        position = index * 4.0 + float(found.affine[axis, 3] - scan["label"].affine[axis, 3])
        offsets = {number: abs(position - number * edge) for number in labeled}
        nearest = min(offsets.values())
        assert nearest == pytest.approx(offsets[value]) if value in offsets else nearest >= 2 - 1e-6


def test_a_stroke_and_its_doubt_are_kept_and_what_is_labeled_already_stays():
    scan = _sparse(2, 24, (1.0, 1.0, 1.0), channels=2)
    label = scan["label"]
    label[:, :, :, 1] = IGNORED
    label[:, 5, 9, 14] = torch.tensor([3.0, 40.0])
    label[:, 12:, 12:, 12:] = torch.tensor([2.0, 0.0])[:, None, None, None]
    spacing = IsotropicSpacingd(["image", "label"], 4.0, ["bilinear", "nearest"])
    found = spacing(scan)["label"]
    assert (found[0] == 3).sum() == 1 and found[1][found[0] == 3].tolist() == [40.0]
    plain = scan.copy()
    plain["label"] = MetaTensor(torch.where(label == IGNORED, 1.0, label), label.affine)  # nothing is open
    is_large = spacing(plain)["label"][0] == 2
    assert torch.equal(is_large & (found[0] == 2), is_large)


@pytest.mark.parametrize("labeled", [[2, 3], [3, 2], [5, 3, 2], [2, 5]])
def test_of_several_labeled_slices_in_a_voxel_the_nearest_counts(labeled):
    scan = _sparse(2, 24, (1.0, 1.0, 1.0))
    scan["label"][..., 1] = IGNORED
    for index in labeled:
        scan["label"][..., index] = index
    found = IsotropicSpacingd(["image", "label"], 4.0, ["bilinear", "nearest"])(scan)["label"]
    (value,) = found[..., 1].unique().tolist()  # whose center lies at slice 4
    assert abs(value - 4) == min(abs(index - 4) for index in labeled)
