"""Laws of where tumors may lie, of the scale of intensities, and of findings outside of the organ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, Spacingd

from common.layers import FindOrgand, KeepOrgand, NormalizeByOrgand, find_body, find_brain
from common.layers.organ import _close, _Depth


def ellipse(shape, radii, spacing=1.0):
    axes = np.meshgrid(*[spacing * (np.arange(length) - (length - 1) / 2) for length in shape[:2]], indexing="ij")
    inside = sum((axis / radius) ** 2 for axis, radius in zip(axes, radii, strict=True)) < 1
    return np.repeat(inside[..., None], shape[2], axis=2)


def make_head(spacing=2.0, tumor=1.6):
    """Return a bright scalp around a dark skull around a brain with a tumor, and the brain."""
    shape = (96, 80, 4) if spacing == 2.0 else (48, 40, 4)
    random = np.random.RandomState(0)
    image = random.uniform(0, 10, shape)
    for radii, level in (((90, 74), 800), ((82, 66), 40), ((78, 62), 200)):
        inside = ellipse(shape, radii, spacing)
        image[inside] = level * random.normal(1, 0.08, inside.sum())
    middle = shape[1] // 2
    image[:10, middle - 2 : middle + 2] = np.maximum(image[:10, middle - 2 : middle + 2], 800)  # no skull in the face
    image[:2] = random.uniform(0, 10, (2, *shape[1:]))
    brain = ellipse(shape, (78, 62), spacing)
    lesion = np.roll(ellipse(shape, (16, 14), spacing), int(30 / spacing), axis=0)
    image[lesion] *= tumor
    return image.astype(np.float32), brain, lesion


@pytest.mark.parametrize("spacing", [2.0, 4.0])
@pytest.mark.parametrize("tumor", [0.3, 0.8, 1.6, 2.2])
def test_the_brain_is_found_with_its_tumor_and_without_skull_and_scalp(spacing, tumor):
    image, brain, lesion = make_head(spacing, tumor)
    found = find_brain(image, (spacing, spacing, 5.0))
    assert found.shape == image.shape and found.dtype == bool
    assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.93
    assert found[lesion].mean() > 0.99
    assert found[~ellipse(image.shape, (82, 66), spacing)].sum() < 0.01 * found.sum()


def test_muscles_below_the_brain_do_not_belong_to_it():
    """Most of the face did, where slices reach below the skull."""
    image, brain, _ = make_head()
    face = np.repeat(np.where(brain, 40, image)[..., :1], 6, axis=2)
    muscles = np.zeros_like(face, dtype=bool)
    muscles[20:76, 15:22] = muscles[20:76, 36:43] = muscles[20:76, 58:65] = True  # 14 mm wide
    face[muscles] = 200
    found = find_brain(np.concatenate((face, image), axis=2), (2.0, 2.0, 5.0))
    assert found[..., 6:][brain].mean() > 0.9
    assert not found[..., :3].any()  # farther than the rim


@pytest.mark.parametrize("spacing", [2.0, 4.0])
def test_a_brain_without_its_skull_keeps_its_rim(spacing):
    """Its outermost 6 mm were left out as skin."""
    image, brain, _ = make_head(spacing)
    found = find_brain(image * brain, (spacing, spacing, 5.0))
    assert found[brain].mean() > 0.97 and not found[~brain].mean() > 0.02


def test_the_brain_does_not_depend_on_the_scale_of_intensities():
    image, _, _ = make_head()
    assert np.array_equal(find_brain(image, (2, 2, 5)), find_brain(image * 8, (2, 2, 5)))


def test_a_scan_that_the_brain_fills_is_all_brain():
    noise = np.random.RandomState(0).uniform(90, 110, (40, 48, 30))
    assert find_brain(noise, (1.0, 1.0, 2.0)).all()


def test_where_nothing_is_outside_of_a_slice_its_depth_is_the_same_everywhere():
    """SciPy measures the distance to nothing from a voxel beside the first one."""
    mask = np.ones((4, 6, 2), bool)
    mask[3:, :, 1] = False
    depth = _Depth(mask, edge=2.0)
    assert depth.max == 6.0  # three rows below the border
    assert depth.above(3.9)[..., 0].all() and not depth.above(4.0)[..., 0].any()
    np.testing.assert_array_equal(depth.above(3.9)[..., 1], (np.arange(4) < 2)[:, None].repeat(6, axis=1))


def test_a_gap_is_closed_up_to_the_border_of_its_slice_and_in_its_slice_alone():
    """Where the slice was taken to end in nothing, both ends of the gap stayed open."""
    mask = np.ones((20, 20, 3), bool)
    mask[:, 8:11, 1] = False
    mask[..., 2] = False
    closed = _close(mask, 4.0)
    assert closed[..., :2].all() and not closed[..., 2].any()


def test_the_body_is_filled_and_the_table_left_out():
    image = np.full((40, 50, 3), -1000, np.int16)
    body = ellipse(image.shape, (12, 18))
    image[body] = 40
    image[ellipse(image.shape, (5, 6))] = -900  # lungs
    image[36:38, 5:45] = 200  # the table
    assert np.array_equal(find_body(image), body)


def scan(volume, spacing=(1.0, 1.0, 1.0)):
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    return MetaTensor(torch.as_tensor(volume)[None], affine, meta={"filename_or_obj": "a.nii"})


def test_a_mask_that_is_there_is_taken_and_else_one_is_found_with_the_voxel_size():
    image, _, _ = make_head(4.0)
    item: dict = {"image": scan(image, (4.0, 4.0, 5.0))}
    out = FindOrgand("image", method="brain")(item)
    assert np.array_equal(out["organ"][0].numpy(), find_brain(image, (4, 4, 5)))
    assert out["organ"].dtype == torch.uint8 and torch.equal(out["organ"].affine, item["image"].affine)
    given = torch.zeros(1, *image.shape)
    given[0, 3, 3] = 7
    for method in ("brain", "given"):
        out = FindOrgand("image", method=method)({**item, "organ": given})
        assert torch.equal(out["organ"].as_tensor(), (given > 0).to(torch.uint8))
    assert "organ" not in item


def test_missing_empty_and_unknown_masks_are_refused():
    item: dict = {"image": scan(np.zeros((4, 4, 4), np.float32))}
    with pytest.raises(ValueError, match=r"a.nii: must have a mask of the organ, got none"):
        FindOrgand("image")(item)
    with pytest.raises(ValueError, match=r"a.nii: organ must have voxels, got an empty mask"):
        FindOrgand("image")({**item, "organ": torch.zeros(1, 4, 4, 4)})
    with pytest.raises(ValueError, match=r"method must be one of \['body', 'brain', 'given'\], got 'liver'"):
        FindOrgand("image", method="liver")


def make_item(low) -> dict:
    generator = torch.Generator().manual_seed(0)
    organ = (torch.rand(1, 5, 5, 5, generator=generator) < 0.4).to(torch.uint8)
    return {"image": low + 300 * torch.rand(1, 5, 5, 5, generator=generator), "organ": organ, "other": 1}


def test_the_median_of_the_organ_becomes_1_and_0_stays_0():
    item = make_item(0.0)
    item["image"][0, 0] = 0
    before = item["image"].clone()
    out = NormalizeByOrgand("image")(item)
    assert out["image"][item["organ"] > 0].median() == 1
    assert not out["image"][0, 0].any() and torch.equal(item["image"], before)
    ratio = out["image"][before > 0] / before[before > 0]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_with_clip_its_lower_bound_becomes_0():
    item = make_item(-150.0)
    item["image"][:, :3] = -100  # most of the organ, like the fat of a body: it does not count
    out = NormalizeByOrgand("image", clip=[-100, 100])(item)["image"]
    assert out[(item["organ"] > 0) & (item["image"] > -100)].median() == 1
    assert not out[item["image"] <= -100].any() and out.min() == 0
    assert (out[item["image"] >= 100] == out.max()).all()


def test_scales_that_make_no_sense_are_refused():
    for wrong in ([1], [2, 2], [3, 1]):
        with pytest.raises(ValueError, match=r"clip must be two increasing intensities, got \["):
            NormalizeByOrgand("image", clip=wrong)
    item: dict = {"image": scan(np.full((3, 3, 3), -500.0)), "organ": torch.ones(1, 3, 3, 3)}
    for clip in (None, [-200, 200]):
        with pytest.raises(ValueError, match=r"a.nii: organ must have a median above 0, got .*; look at clip"):
            NormalizeByOrgand("image", clip=clip)(item)


# ---- findings ------------------------------------------------------------------------------------

SPACING = (1.0, 2.0, 3.5)


def on_grid(volume, spacing=SPACING):
    return MetaTensor(torch.as_tensor(volume)[None].float(), affine=np.diag([*spacing, 1.0]))


def preprocess(item, spacing, given=True):
    """Return an item on the network's grid, with the mask as it came if it is given, and the preprocessing."""
    modes = ["bilinear", "nearest"]
    keys = ["image", "organ"]
    preprocessing = Compose([Orientationd(keys, axcodes="LPS", labels=None), Spacingd(keys, spacing, mode=modes)])
    copy = {"given_organ": item["organ"].clone()} if given else {}
    return {**preprocessing(item), **copy}, preprocessing


@pytest.mark.parametrize("given", [True, False], ids=["given", "found"])
@pytest.mark.parametrize("margin", [0.0, 3.0])
def test_findings_stay_within_a_margin_in_mm_around_the_organ(margin, given):
    organ = torch.zeros(11, 11, 11)
    organ[5, 5, 4] = 1
    item, preprocessing = preprocess(
        {"image": on_grid(torch.rand(11, 11, 11)), "organ": on_grid(organ)}, SPACING, given
    )
    labels = torch.full((1, 11, 11, 11), 3, dtype=torch.uint8)
    found = KeepOrgand("pred", preprocessing, margin=margin)({**item, "pred": labels})["pred"]
    middle = zip((5, 5, 4), SPACING, strict=True)
    offsets = np.stack(np.meshgrid(*[(np.arange(11) - index) * edge for index, edge in middle], indexing="ij"))
    np.testing.assert_array_equal(found[0].numpy() == 3, np.linalg.norm(offsets, axis=0) <= margin)
    assert found.dtype == torch.uint8 and (labels == 3).all()


@pytest.mark.parametrize("spacing", [(3.0, 3.0, 3.5), (0.7, 0.7, 0.7)])
def test_whatever_the_grid_of_the_network_a_given_organ_is_kept_to_the_voxel(spacing):
    organ = (torch.rand(20, 18, 9) > 0.5).float()
    item, preprocessing = preprocess({"image": on_grid(torch.rand(20, 18, 9)), "organ": on_grid(organ)}, spacing)
    labels = torch.randint(0, 3, (1, 20, 18, 9))
    found = KeepOrgand("pred", preprocessing)({**item, "pred": labels})["pred"]
    assert torch.equal(found, labels * organ[None].long())


def test_an_organ_that_was_found_comes_back_to_the_grid_of_the_scan():
    x, y, z = np.meshgrid(*(np.arange(edge) for edge in (40, 36, 20)), indexing="ij")
    ball = (x - 20) ** 2 + (y - 18) ** 2 + (2 * (z - 10)) ** 2 < 14**2
    item: dict = {"image": on_grid(np.zeros(ball.shape), (1.0, 1.0, 2.0)), "organ": on_grid(ball, (1.0, 1.0, 2.0))}
    item, preprocessing = preprocess(item, (3.0, 3.0, 2.0), given=False)
    assert item["organ"].shape != (1, *ball.shape)
    kept = KeepOrgand("pred", preprocessing)({**item, "pred": torch.ones(1, *ball.shape)})["pred"][0].numpy() > 0
    assert (kept & ball).sum() > 0.9 * (kept | ball).sum()


def test_without_a_margin_nothing_changes_and_a_negative_one_is_refused():
    item: dict = {"pred": torch.ones(1, 3, 3, 3)}
    assert KeepOrgand("pred", Compose([]), margin=None)(item)["pred"] is item["pred"]
    with pytest.raises(ValueError, match="margin must be 0 or more, or None, got -1"):
        KeepOrgand("pred", Compose([]), margin=-1)


@pytest.mark.parametrize("margin", [0.0, 3.0])
def test_with_an_empty_organ_there_are_no_findings(margin):
    """With a margin, a corner of the scan was kept: SciPy measures no distance to nothing."""
    item: dict = {"given_organ": torch.zeros(1, 5, 5, 5), "pred": torch.ones(1, 5, 5, 5)}
    assert not KeepOrgand("pred", Compose([]), margin=margin)(item)["pred"].any()


# ---- several channels ----------------------------------------------------------------------------


def test_every_channel_is_normalized_by_its_own_median_within_its_own_clip():
    first, second = make_item(0.0), make_item(-150.0)
    image = MetaTensor(torch.cat((first["image"], second["image"])), meta={"filename_or_obj": "a.nii"})
    both = {**first, "image": image}
    for clip, clips in (
        (None, [None, None]),
        ([-100, 100], [[-100, 100]] * 2),
        ([[0, 50], [-100, 100]], [[0, 50], [-100, 100]]),
    ):
        if clip is None:
            both["image"] = image + 150
        out = NormalizeByOrgand("image", clip)(both)["image"]
        assert out.meta["filename_or_obj"] == "a.nii"
        for channel, own in enumerate(clips):
            alone = NormalizeByOrgand("image", own)({**first, "image": both["image"][channel, None]})["image"]
            assert torch.equal(out[channel, None], alone)
        both["image"] = image


def test_clips_of_other_channels_and_channels_without_an_organ_are_refused():
    item: dict = {"image": scan(np.full((3, 3, 3), 5.0)), "organ": torch.ones(1, 3, 3, 3)}
    item["image"] = torch.cat((item["image"], 0 * item["image"]))
    with pytest.raises(ValueError, match="clip must be one pair for each of 2 channels, got 3"):
        NormalizeByOrgand("image", [[0, 1]] * 3)(item)
    with pytest.raises(ValueError, match=r"a.nii: organ must have a median above 0 in channel 1, got 0; look"):
        NormalizeByOrgand("image")(item)
    with pytest.raises(ValueError, match=r"clip must be two increasing intensities, got \[2, 1\]"):
        NormalizeByOrgand("image", [[0, 1], [2, 1]])


def test_the_organ_is_found_in_the_first_channel():
    image, _, _ = make_head()
    alone = FindOrgand("image", "brain")({"image": scan(image, (2.0, 2.0, 5.0))})["organ"]
    other = scan(np.random.default_rng(0).normal(size=image.shape), (2.0, 2.0, 5.0))
    both = torch.cat((scan(image, (2.0, 2.0, 5.0)), other))
    found = FindOrgand("image", "brain")({"image": both})["organ"]
    assert found.shape == (1, *image.shape) and torch.equal(found, alone)
