"""Laws of the random grid: all resolutions and the label move alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from common.fnet import FNetGeometry, PatchAugmentation, PatchDataset, PatchRequest, Pyramid

GEOMETRY = FNetGeometry(num_levels=3, kernel_size=3)
SIZE = (40, 36, 32)
SAME_GRAYS = {"log_contrast_range": 0, "brightness_range": 0}
AT_REST = {"shift_range": 0, "rotate_range": 0, "log_scale_range": 0, **SAME_GRAYS}


def make_pair(augmentation, image, label=None):
    """Return a plain and an augmented data set of one case."""
    case = {"image": image} if label is None else {"image": image, "label": label}
    return [PatchDataset([case], Compose([]), GEOMETRY, 8, augmentation=a) for a in (None, augmentation)]


@pytest.mark.parametrize("seed", range(6))
def test_the_grid_at_rest_reads_the_plain_patch(seed):
    label = (torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(0)) > 0.7).to(torch.uint8)
    plain, moved = make_pair(PatchAugmentation(**AT_REST), torch.randn(1, *SIZE), label)
    first, second = (dataset[PatchRequest(0, seed, True)] for dataset in (plain, moved))
    for patches in zip([first["image"], *first["context"]], [second["image"], *second["context"]], strict=True):
        torch.testing.assert_close(*patches, atol=1e-4, rtol=0)
    assert torch.equal(first["label"], second["label"])


@pytest.mark.parametrize("seed", range(6))
def test_the_label_moves_with_the_image(seed):
    label = torch.zeros(1, *SIZE, dtype=torch.uint8)
    label[:, 12:28, 10:26, 8:24] = 1
    _, moved = make_pair(PatchAugmentation(**SAME_GRAYS), label.float(), label)
    item = moved[PatchRequest(0, seed, True)]
    margin = GEOMETRY.margins[0]
    inner = item["image"][:, margin:-margin, margin:-margin, margin:-margin]
    assert item["label"].dtype == torch.int32
    agree = (inner > 0.5) == (item["label"] > 0)
    assert agree.float().mean() > 0.95
    assert ((inner < 1e-4) & (item["label"] > 0)).sum() == 0


@pytest.mark.parametrize("seed", range(6))
def test_all_levels_show_the_same_place_at_their_own_scale(seed):
    """The intensities are the voxel's coordinates, so means and differences tell where and how a patch lies."""
    geometry = FNetGeometry(num_levels=2, kernel_size=3)
    ramps = torch.stack(torch.meshgrid(3 * [torch.arange(64.0)], indexing="ij"))
    rng = np.random.default_rng(seed)
    patches, label = PatchAugmentation(shift_range=4, **SAME_GRAYS)(
        Pyramid(ramps, 2), None, (28, 28, 28), (8, 8, 8), geometry, rng
    )
    fine, coarse = patches
    assert label is None and fine.shape[1:] != coarse.shape[1:]
    torch.testing.assert_close(fine.mean((1, 2, 3)), coarse.mean((1, 2, 3)), atol=1e-3, rtol=0)
    assert ((fine.mean((1, 2, 3)) - 31.5).abs() <= 4).all()
    for axis in (1, 2, 3):
        torch.testing.assert_close(2 * fine.diff(dim=axis).mean((1, 2, 3)), coarse.diff(dim=axis).mean((1, 2, 3)))


def test_same_seed_same_patch_other_seed_another():
    _, moved = make_pair(PatchAugmentation(), torch.randn(1, *SIZE))
    first, again, other = (moved[PatchRequest(0, seed, False)]["image"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_every_matrix_is_a_rotation_times_a_scale_within_the_ranges():
    augmentation = PatchAugmentation(rotate_range=15, log_scale_range=0.2)
    for seed in range(50):
        matrix = augmentation._draw_matrix(np.random.default_rng(seed)).double()
        scale = torch.linalg.det(matrix) ** (1 / 3)
        torch.testing.assert_close(matrix @ matrix.T, scale**2 * torch.eye(3).double(), atol=1e-5, rtol=0)
        assert abs(np.log(scale)) <= 0.2 + 1e-6


def test_beyond_the_border_is_air():
    image = torch.full((1, 6, 6, 6), 5.0)
    image[0, 0, 0, 0] = -3.0
    _, moved = make_pair(PatchAugmentation(**SAME_GRAYS), image)
    item = moved[PatchRequest(0, 0, False)]
    assert item["context"][1][0, 0, 0, 0] == -3.0
    assert min(patch.min() for patch in [item["image"], *item["context"]]) >= -3.0


def test_left_and_right_change_places_with_their_classes():
    """What a mirrored patch shows is what the patch of a mirrored volume shows; about half are mirrored."""
    names = {0: "background", 1: "right kidney", 2: "left kidney", 3: "spine"}
    size = 40
    image = torch.randn(1, size, size, size, generator=torch.Generator().manual_seed(0))
    label = torch.randint(0, 4, (1, size, size, size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    other = torch.tensor([0, 2, 1, 3], dtype=torch.uint8)[label.flip(1).long()]
    augmentation = PatchAugmentation(**AT_REST, mirror=names)
    start, patch = (16, 16, 16), (8, 8, 8)  # in the middle, where a mirrored patch shows the place itself
    found = []
    for seed in range(20):
        drawn = augmentation(Pyramid(image, 3), label, start, patch, GEOMETRY, np.random.default_rng(seed))
        plain, mirrored = (
            PatchAugmentation(**AT_REST)(Pyramid(a, 3), b, start, patch, GEOMETRY, np.random.default_rng(0))
            for a, b in ((image, label), (image.flip(1), other))
        )
        found.append(torch.equal(drawn[1], mirrored[1]))
        expected = mirrored if found[-1] else plain
        assert torch.equal(drawn[1], expected[1])
        for patches in zip(drawn[0], expected[0], strict=True):
            torch.testing.assert_close(*patches, atol=1e-4, rtol=0)
    assert 4 < sum(found) < 16


def test_where_no_name_tells_a_side_no_patch_is_mirrored():
    assert PatchAugmentation(mirror={0: "background", 1: "liver"}).mirrored == {}


def test_contrast_and_brightness_are_those_of_all_levels_alike():
    image, start, patch = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0)), (16, 14, 12), (8, 8, 8)
    augmentation = PatchAugmentation(0, 0, 0, log_contrast_range=0.2, brightness_range=0.3)
    plain, _ = PatchAugmentation(**AT_REST)(Pyramid(image, 3), None, start, patch, GEOMETRY, np.random.default_rng(0))
    factors, shifts = [], []
    for seed in range(20):
        patches, _ = augmentation(Pyramid(image, 3), None, start, patch, GEOMETRY, np.random.default_rng(seed))
        contrast = (patches[0].std() / plain[0].std()).item()
        brightness = (patches[0].mean() - contrast * plain[0].mean()).item()
        for drawn, whole in zip(patches, plain, strict=True):
            torch.testing.assert_close(drawn, contrast * whole + brightness, atol=1e-4, rtol=0)
        factors.append(abs(np.log(contrast)))
        shifts.append(abs(brightness))
    assert 0.1 < max(factors) <= 0.2 + 1e-5 and 0.15 < max(shifts) <= 0.3 + 1e-5


@pytest.mark.parametrize(("place", "is_mirrored"), [(18, True), (30, False)])
def test_a_scan_with_an_organ_on_one_side_has_no_mirror_image(place, is_mirrored, caplog):
    """In a mirror image the liver would lie on the left, where the spleen is."""
    caplog.set_level("INFO")
    label = torch.zeros(1, *SIZE, dtype=torch.uint8)
    for value, start in ((1, 4), (2, 32), (3, place)):
        label[:, start : start + 4, 10:20, 8:24] = value
    labels = {0: "background", 1: "right kidney", 2: "left kidney", 3: "organ"}
    augmentation = PatchAugmentation(**AT_REST, mirror=labels)
    case = {"image": torch.randn(1, *SIZE), "label": label}
    dataset = PatchDataset([case], Compose([]), GEOMETRY, 8, augmentation=augmentation, labels=labels)
    plain = PatchDataset([case], Compose([]), GEOMETRY, 8)
    requests = [PatchRequest(0, seed, True) for seed in range(12)]
    same = [torch.equal(dataset[request]["label"], plain[request]["label"]) for request in requests]
    assert all(same) != is_mirrored
    assert (caplog.messages == []) == is_mirrored
