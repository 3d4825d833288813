"""Laws of measures: they are exact on bodies of known size and place, on every grid."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from common.training import measure_labels

SHAPE = (24, 20, 16)
SPACING = (0.8, 1.5, 4.0)
OBLIQUE = nib.affines.from_matvec(
    Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix() @ np.diag(SPACING), (30, -20, 7)
)
SHEARED = OBLIQUE @ np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
GRIDS = {"anisotropic": np.diag([*SPACING, 1]), "oblique": OBLIQUE, "sheared": SHEARED}


def box(start=(3, 4, 5), size=(6, 7, 8), value=1):
    label = np.zeros(SHAPE, np.uint8)
    label[tuple(slice(first, first + length) for first, length in zip(start, size, strict=True))] = value
    return label


@pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS)
def test_a_box_has_its_volume_its_diagonal_and_its_center(affine):
    found = measure_labels(box(), affine, [1])[1]
    edges = affine[:3, :3]
    diagonals = [np.linalg.norm(edges @ (6 * one, 7 * two, 8)) for one, two in itertools.product((1, -1), repeat=2)]
    assert found.volume_ml == pytest.approx(6 * 7 * 8 * np.prod(SPACING) / 1000)
    assert found.longest_diameter_mm == pytest.approx(max(diagonals))
    assert found.centroid_ras_mm == pytest.approx(nib.affines.apply_affine(affine, (5.5, 7.0, 8.5)))
    assert found.num_components == 1 and found.cut_off_at == []


@pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS)
def test_a_ball_is_as_long_as_it_is_thick_but_for_a_voxel(affine):
    fine = affine @ np.diag([0.25, 0.25, 0.1, 1])
    places = nib.affines.apply_affine(fine, np.argwhere(np.ones((60, 40, 40)))).reshape(60, 40, 40, 3)
    center, radius = places[30, 20, 20], 4.5
    label = (np.linalg.norm(places - center, axis=-1) <= radius).astype(np.uint8)
    found = measure_labels(label, fine, [1])[1]
    voxel = np.linalg.norm(np.abs(fine[:3, :3]).sum(axis=1))
    assert 2 * radius - voxel < found.longest_diameter_mm < 2 * radius + voxel
    assert found.volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.03)
    assert found.centroid_ras_mm == pytest.approx(center, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_no_two_corners_are_farther_apart_than_the_longest_diameter(seed):
    rng = np.random.default_rng(seed)
    label = (rng.random((6, 5, 7)) > 0.6).astype(np.uint8)
    found = measure_labels(label, SHEARED, [1])[1]
    shifts = np.array([*itertools.product((-0.5, 0.5), repeat=3)])
    corners = (np.argwhere(label)[:, None] + shifts).reshape(-1, 3)
    assert found.num_components == 1
    assert found.longest_diameter_mm == pytest.approx(pdist(nib.affines.apply_affine(SHEARED, corners)).max())


def test_the_diameter_is_that_of_the_largest_of_several_parts():
    label = box((1, 1, 1), (4, 4, 4)) + box((20, 18, 14), (1, 1, 1))
    found = measure_labels(label, np.eye(4), [1])[1]
    assert found.num_components == 2
    assert found.longest_diameter_mm == pytest.approx(48**0.5)
    assert found.volume_ml == pytest.approx(0.065)


def test_parts_that_touch_at_a_corner_are_one():
    label = box((1, 1, 1), (2, 2, 2)) + box((3, 3, 3), (2, 2, 2))
    assert measure_labels(label, np.eye(4), [1])[1].num_components == 1


def test_intensities_are_those_of_the_image_within_the_label():
    rng = np.random.default_rng(0)
    image = rng.normal(40, 10, SHAPE).astype(np.float32)
    image[box() == 0] = 1e6
    image[4, 5, 6] = np.nan
    found = measure_labels(box() + box((15, 14, 2), (1, 1, 1), 2), np.eye(4), [1, 2], image)
    inside = np.delete(image[box() == 1], np.flatnonzero(np.isnan(image[box() == 1])))
    assert found[1].mean_intensity == pytest.approx(inside.mean(dtype=float))
    assert found[1].std_intensity == pytest.approx(inside.std(dtype=float))
    assert found[2].mean_intensity == 1e6 and found[2].std_intensity == 0


def test_an_empty_label_has_no_place_and_no_size():
    found = measure_labels(box(value=2), np.eye(4), [1, 2, 3], np.zeros(SHAPE))
    for value in (1, 3):
        empty = found[value]
        assert (empty.volume_ml, empty.num_components, empty.cut_off_at) == (0, 0, [])
        assert empty.mean_intensity is empty.longest_diameter_mm is empty.centroid_ras_mm is None
    assert found[2].volume_ml > 0


@pytest.mark.parametrize("codes", [*map("".join, itertools.product("RL", "AP", "SI")), "SPL", "AIR"])
def test_a_label_at_the_border_is_cut_off_at_the_sides_where_it_is(codes):
    """The body lies at the patient's left and at the head, in whatever order the file has its axes."""
    label = box((0, 5, 10), (4, 4, 6))  # of an RAS volume: at its left and upper end
    volume = nib.Nifti1Image(label, np.diag([1.0, 2, 3, 1]))
    turned = volume.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(volume.affine), nib.orientations.axcodes2ornt(codes))
    )
    assert "".join(nib.aff2axcodes(turned.affine)) == codes
    found = measure_labels(np.asarray(turned.dataobj), turned.affine, [1])[1]
    assert sorted(found.cut_off_at) == ["L", "S"]
    assert found.centroid_ras_mm == pytest.approx((1.5, 13.0, 37.5))


def test_a_scan_that_does_not_tell_its_orientation_has_slices_in_place_of_sides():
    found = measure_labels(box((0, 5, 10), (4, 4, 6)), np.eye(4), [1], is_oriented=False)[1]
    assert found.cut_off_at == ["i=0", "k=15"]
    assert found.centroid_ras_mm is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_image_of_one_slice_has_its_diameter_in_its_plane_and_no_border_across(axis):
    label = np.expand_dims(np.zeros((12, 10), np.uint8), axis)
    index = [slice(2, 5), slice(3, 7)]
    index.insert(axis, slice(None))
    label[tuple(index)] = 1
    edges = np.insert([1.0, 2.0], axis, 9.0)
    found = measure_labels(label, np.diag([*edges, 1]), [1])[1]
    assert found.longest_diameter_mm == pytest.approx(np.hypot(3 * 1.0, 4 * 2.0))
    assert found.cut_off_at == []


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_whole_numbers_of_every_type_are_the_same_labels(dtype):
    assert measure_labels(box().astype(dtype), np.eye(4), [1]) == measure_labels(box(), np.eye(4), [1])


def test_an_image_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"image must have the shape of the label map \(24, 20, 16\), got \(2, 2, 2\)"):
        measure_labels(box(), np.eye(4), [1], np.zeros((2, 2, 2)))
