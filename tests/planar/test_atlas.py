"""Laws of the segmentation with an atlas of described voxels."""

from __future__ import annotations

import logging

import pytest
import torch
from monai.data import MetaTensor

from common.data import class_set
from common.planar import (
    GrayValueDifference,
    LearnedDescriptor,
    PlanarAtlas,
    PositionDescriptor,
    VoxelGrid,
    extract_descriptors,
    nearest_neighbors,
)
from common.planar.voting import vote_image, weight_background

SIZE = (14, 11, 9)


def make_atlas(descriptor=None, **options):
    return PlanarAtlas(descriptor or GrayValueDifference(16), 3, **{"step": 1, "num_neighbors": 1, **options})


@pytest.mark.parametrize("options", [{}, {"normalization": "l2"}, {"voting": "distance", "num_neighbors": 5}])
@pytest.mark.parametrize("normalization", ["none", "standardize"])
@pytest.mark.parametrize("position_weight", [0.0, 0.5])
def test_a_volume_of_the_atlas_gets_its_own_label(volume, label, options, normalization, position_weight):
    atlas = make_atlas(**{"normalization": normalization, "position_weight": position_weight, **options})
    atlas.add(volume, label, "case")
    votes = atlas(volume.unsqueeze(0))
    assert votes.shape == (1, 3, *SIZE)
    assert torch.equal(votes.argmax(dim=1), label.long())


@pytest.mark.parametrize(
    "descriptor", [LearnedDescriptor(32, 8), GrayValueDifference(16, centered=True), PositionDescriptor()]
)
def test_a_voxel_of_the_atlas_finds_itself_first(volume, label, descriptor):
    atlas = make_atlas(descriptor, step=3)
    num_voxels = atlas.add(volume, label, "case")
    grid = VoxelGrid(SIZE, 3)
    queries = extract_descriptors(volume, descriptor, grid.centers(grid.indices())).half()
    assert num_voxels == len(queries)
    assert torch.equal(nearest_neighbors(queries, atlas.descriptors, 1)[1].squeeze(1), torch.arange(num_voxels))


@pytest.mark.parametrize("descriptor", [GrayValueDifference(16), PositionDescriptor()])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalization": "l2"},
        {"normalization": "standardize", "voting": "distance"},
        {"normalization": "l2", "position_weight": 2.0},
        {"normalization": "standardize", "position_weight": 0.3},
    ],
)
def test_votes_are_shares_of_the_neighbors_at_the_grid_and_interpolated_between(volume, label, descriptor, options):
    """Worked out again from the buffers, with a matrix of all distances."""
    atlas = make_atlas(descriptor, step=(2, 3, 4), num_neighbors=5, **options)
    assert atlas.add(volume, label, "case") == len(VoxelGrid(SIZE, (2, 3, 4)).indices())
    image = torch.rand(1, 8, 9, 13, generator=torch.Generator().manual_seed(1))
    grid = VoxelGrid(image.shape[1:], (2, 3, 4))
    centers = grid.centers(grid.indices())

    def features(descriptors, centers):
        if options.get("normalization") == "l2":
            descriptors = descriptors / descriptors.norm(dim=1, keepdim=True)
        if options.get("normalization") == "standardize":
            std, mean = torch.std_mean(atlas.descriptors.double(), dim=0, correction=0)
            descriptors = (descriptors - mean) / (std + std.eq(0))
        return torch.cat((descriptors, options.get("position_weight", 0) * centers.double()), dim=1)

    queries = features(extract_descriptors(image, descriptor, centers).half().double(), centers)
    references = features(atlas.descriptors.double(), atlas.centers)
    distances = torch.cdist(queries, references)
    distances, nearest = distances.sort(dim=1, stable=True)
    weights = 1 / distances[:, :5] if options.get("voting") == "distance" else torch.ones(len(queries), 5)
    votes = (torch.nn.functional.one_hot(atlas.labels[nearest[:, :5]].long(), 3) * weights.unsqueeze(2)).sum(dim=1)
    expected = grid.upsample((votes / votes.sum(dim=1, keepdim=True)).float())
    torch.testing.assert_close(atlas(image.unsqueeze(0))[0], expected, atol=1e-4, rtol=1e-4)


def test_votes_add_up_to_one(volume, label):
    atlas = make_atlas(num_neighbors=7, step=3)
    atlas.add(volume, label, "case")
    votes = atlas(torch.rand(2, 1, 10, 7, 12))
    torch.testing.assert_close(votes.sum(dim=1), torch.ones(2, 10, 7, 12))


def test_votes_are_weighted_and_smoothed_as_asked(volume, label):
    plain, other = make_atlas(num_neighbors=5), make_atlas(num_neighbors=5, background_weight=3, smoothing=0.8)
    for atlas in (plain, other):
        atlas.add(volume, label, "case")
    image = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    shares = weight_background(plain(image)[0].flatten(1).T, 3)
    expected = vote_image(shares, torch.arange(len(shares)), VoxelGrid(SIZE, 1), 0.8)
    torch.testing.assert_close(other(image)[0], expected)


def test_a_volume_in_a_batch_is_segmented_as_if_it_were_alone(volume, label):
    atlas = make_atlas(step=2, num_neighbors=3)
    atlas.add(volume, label, "case")
    images = torch.rand(3, 1, 9, 8, 7)
    torch.testing.assert_close(atlas(images), torch.cat([atlas(image.unsqueeze(0)) for image in images]))


@pytest.mark.parametrize("size", [(5, 1, 9), (1, 1, 1), (3, 30, 2)])
def test_volumes_of_any_size_are_segmented_and_added(volume, label, size):
    atlas = make_atlas(LearnedDescriptor(32, 8), step=4)
    atlas.add(volume, label, "case")
    image = torch.rand(1, *size)
    assert atlas(image.unsqueeze(0)).shape == (1, 3, *size)
    assert atlas.add(image, torch.ones(1, *size), "other") == len(VoxelGrid(size, 4).indices())


@pytest.mark.parametrize("position_weight", [0.0, 1.0])
def test_where_nothing_is_to_be_seen_the_background_wins(volume, label, position_weight):
    atlas = make_atlas(GrayValueDifference(16, padding_mode="border"), position_weight=position_weight)
    atlas.add(volume, 1 + label.bool(), "case")
    atlas.class_counts[0] = 1
    assert atlas(torch.full((1, 1, 6, 5, 7), 3.0))[:, 0].eq(1).all()


def test_voxels_that_show_nothing_are_not_added(volume, label):
    half_flat = volume.clone()
    half_flat[:, 4:] = 0.5
    descriptor = GrayValueDifference(16, sigma=0.05, padding_mode="border")
    atlas = make_atlas(descriptor)
    num_voxels = atlas.add(half_flat, label, "case")
    assert 4 * 11 * 9 <= num_voxels < 6 * 11 * 9
    with pytest.raises(ValueError, match="image must show something that can be described, got nothing in flat"):
        atlas.add(torch.ones(1, *SIZE), label, "flat")


def test_images_with_metadata_are_taken_as_they_are(volume, label):
    atlas, expected = make_atlas(step=2), make_atlas(step=2)
    atlas.add(MetaTensor(volume), MetaTensor(label), "case")
    expected.add(volume, label, "case")
    image = torch.rand(1, 1, *SIZE)
    votes = atlas(MetaTensor(image))
    assert type(votes) is torch.Tensor
    assert torch.equal(votes, expected(image))


def test_an_image_of_the_atlas_and_more_neighbors_than_voxels_are_warned_of(volume, label, caplog):
    atlas = make_atlas(step=4, num_neighbors=21)
    num_voxels = atlas.add(volume, label, "case")
    assert num_voxels < 21 or caplog.text == ""
    with caplog.at_level(logging.WARNING):
        atlas(torch.rand(1, 1, 5, 5, 5))
        assert f"num_neighbors 21 is more than the atlas has, all {num_voxels} vote" in caplog.text
        assert "image is in the atlas" not in caplog.text
        atlas(volume.unsqueeze(0))
        assert "image is in the atlas" in caplog.text


def test_a_class_between_the_points_of_the_grid_is_warned_of(volume, label, caplog):
    label = label.clamp(max=1)
    label[0, 0, 0, 0] = 2
    with caplog.at_level(logging.WARNING):
        make_atlas(step=3).add(volume, label, "case")
    assert "case: classes [2] are not in the atlas; a smaller step may find them" in caplog.text


@pytest.mark.parametrize("radius", [None, 0.5])
@pytest.mark.parametrize("num_present", [1, 2])
def test_a_class_that_the_atlas_lacks_gets_no_votes_and_is_warned_of(volume, label, caplog, num_present, radius):
    """A validation before the first scan with a rare class ended the training."""
    atlas = make_atlas(search_radius=radius)
    atlas.add(volume, label.clamp(max=num_present - 1), "case")
    with caplog.at_level(logging.WARNING):
        votes = atlas(volume.unsqueeze(0))
    assert votes.shape == (1, 3, *SIZE) and not votes[:, num_present:].any()
    torch.testing.assert_close(votes.sum(1), torch.ones(1, *SIZE))
    assert f"atlas has no voxels of {[1, 2][num_present - 1 :]}: nothing becomes one of these classes" in caplog.text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, r"label must have classes from 0 to 2, got \[3\.0\]"),
        (0.5, r"label must have classes from 0 to 2, got \[0\.5\]"),
        (torch.nan, r"label must have classes from 0 to 2, got \[nan\]"),
    ],
)
def test_labels_that_are_no_classes_are_refused(volume, label, value, message):
    label[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=message):
        make_atlas().add(volume, label, "case")


def test_images_of_other_shapes_and_intensities_are_refused(volume, label):
    atlas = make_atlas()
    with pytest.raises(ValueError, match=r"image must have shape \(1, H, W, D\), got \(2, 14, 11, 9\)"):
        atlas.add(volume.repeat(2, 1, 1, 1), label, "case")
    with pytest.raises(ValueError, match=r"label must have the shape of image \(1, 14, 11, 9\), got \(1, 14, 11, 8\)"):
        atlas.add(volume, label[..., 1:], "case")
    with pytest.raises(ValueError, match="image must be finite and normalized, got descriptors that are NaN or Inf"):
        atlas.add(volume.index_fill(1, torch.tensor(3), torch.nan), label, "case")
    with pytest.raises(ValueError, match=r"image must have shape \(B, 1, H, W, D\), got \(1, 14, 11, 9\)"):
        atlas(volume)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes must be from 2 to 32768, got 1"),
        ({"num_neighbors": 0}, "num_neighbors must be a whole number from 1, got 0"),
        ({"num_neighbors": 1.5}, r"num_neighbors must be a whole number from 1, got 1\.5"),
        ({"max_background": 0}, "max_background must be a whole number from 1, or null .*, got 0"),
        ({"max_voxels": -1}, "max_voxels must be a whole number from 1, or null .*, got -1"),
        ({"voting": "all"}, "voting must be one of majority, distance, got 'all'"),
        ({"normalization": None}, "normalization must be one of none, l2, standardize, got None"),
        ({"position_weight": -0.1}, r"position_weight must be a number from 0, got -0\.1"),
        ({"smoothing": -1}, "smoothing must be a number from 0, got -1"),
        ({"fusion_weight": -1}, "fusion_weight must be a number from 0, got -1"),
        ({"background_weight": 0}, "background_weight must be a number above 0, got 0"),
        ({"search_radius": 0}, "search_radius must be a number above 0, or null .*, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PlanarAtlas(PositionDescriptor(), **options)


def test_a_number_that_is_text_is_refused():
    with pytest.raises(TypeError, match=r"max_background must be a whole number from 1, or null .*, got '9'"):
        PlanarAtlas(PositionDescriptor(), max_background="9")


def test_within_the_search_radius_votes_are_the_same_and_beyond_it_is_background(volume, label):
    """Also when the atlas has background voxels only near its organs."""
    radius = 0.35
    everywhere, near = make_atlas(num_neighbors=3), make_atlas(num_neighbors=3, search_radius=radius)
    for atlas in (everywhere, near):
        atlas.add(volume, label, "case")
    grid = VoxelGrid(SIZE, 1)
    centers = grid.centers(grid.indices())
    is_near = (torch.cdist(centers, centers[label.flatten() > 0]).amin(dim=1) <= radius).view(SIZE)
    assert 0.2 < is_near.float().mean() < 0.9
    assert len(near.labels) == is_near.sum() < len(everywhere.labels)
    everywhere.search_radius = radius
    image = volume.unsqueeze(0) + 0.05 * torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    votes = everywhere(image)
    everywhere.search_radius = None
    assert torch.equal(votes[..., is_near], everywhere(image)[..., is_near])
    assert (votes[:, 0][:, ~is_near] == 1).all() and (near(image)[:, 0][:, ~is_near] == 1).all()


def test_a_volume_without_organs_gives_background_with_and_without_a_search_radius(volume, label):
    atlas = make_atlas(search_radius=0.3)
    assert atlas.add(volume, torch.zeros_like(label), "healthy") == label.numel()


def test_an_empty_atlas_votes_for_background_with_a_warning(volume, caplog):
    votes = make_atlas()(volume[None])
    assert "atlas is empty" in caplog.text
    assert votes.shape == (1, 3, *SIZE) and (votes[:, 0] == 1).all() and not votes[:, 1:].any()


def test_a_class_that_shows_in_the_second_channel_alone_is_found_with_both(volume, label):
    """The label moves with the second channel, so that the first one tells nothing."""
    seen = torch.cat((volume, label))
    moved = label.roll(2, dims=2)
    unseen = torch.cat((volume, moved))
    scores = []
    for channels in (slice(0, 1), slice(0, 2)):
        descriptor = GrayValueDifference(32, 0.3, in_channels=len(seen[channels]), padding_mode="border")
        atlas = make_atlas(descriptor)
        atlas.add(seen[channels], label, "case")
        found = atlas(unseen[None, channels]).argmax(dim=1)
        scores.append(float((found == moved)[moved > 0].double().mean()))  # the share of the organs that is found
    assert scores[1] > 0.8 and scores[0] < 0.65


def test_the_order_of_the_channels_does_not_matter(volume, label):
    image = torch.cat((volume, volume.flip(1), volume.flip(2)))
    votes = []
    for order in ([0, 1, 2], [2, 0, 1]):
        atlas = make_atlas(GrayValueDifference(16, in_channels=3), step=2, num_neighbors=3)
        atlas.add(image[order], label, "case")
        votes.append(atlas(image[None, order].roll(1, dims=2)))
    torch.testing.assert_close(*votes)


def test_a_channel_that_is_there_twice_changes_no_neighbor(volume, label):
    votes = []
    for count in (1, 2):
        atlas = make_atlas(GrayValueDifference(16, in_channels=count), step=2, num_neighbors=3)
        image = volume.expand(count, -1, -1, -1)
        atlas.add(image, label, "case")
        votes.append(atlas(image[None].flip(2)))
    assert torch.equal(*votes)


def test_other_channels_than_those_of_the_descriptor_are_refused(volume, label):
    atlas = make_atlas(GrayValueDifference(16, in_channels=2))
    with pytest.raises(ValueError, match=r"image must have shape \(2, H, W, D\), got \(1, 14, 11, 9\)"):
        atlas.add(volume, label, "case")
    with pytest.raises(ValueError, match=r"image must have shape \(B, 2, H, W, D\), got \(1, 3, 14, 11, 9\)"):
        atlas(volume.expand(1, 3, -1, -1, -1))
    with pytest.raises(ValueError, match=r"label must have the shape of image \(1, 14, 11, 9\), got \(3, 14, 11, 9\)"):
        atlas.add(volume.expand(2, -1, -1, -1), label.expand(3, -1, -1, -1), "case")
    assert make_atlas(PositionDescriptor()).add(volume.expand(2, -1, -1, -1), label, "case")  # any number


# ---- labels that leave something open ------------------------------------------------------------


def test_open_voxels_and_those_in_more_doubt_than_not_are_left_out(volume, label):
    atlas, whole = make_atlas(), make_atlas()
    whole.add(volume, label, "case")
    open_label = label.clone()
    open_label[:, 7:, :, :5] = -1
    open_label[:, 7:, :, 5:] = class_set([0, 2])
    doubt = torch.zeros_like(label)
    doubt[:, :, 6:] = 128
    doubt[:, :, :6] = 127
    num_voxels = atlas.add(volume, torch.cat((open_label, doubt)), "case")
    is_known = (open_label >= 0) & (doubt < 128)
    assert num_voxels == is_known.sum()
    assert torch.equal(atlas.labels, whole.labels[is_known.flatten()])
    assert torch.equal(atlas.descriptors, whole.descriptors[is_known.flatten()])


def test_what_lies_under_open_voxels_of_an_image_of_known_neighbors_does_not_vote(volume, label):
    """The label under them is another one in each volume, and so is not even known to be any."""
    votes = []
    for value in (-1, class_set([0, 1, 2])):
        atlas = make_atlas(step=2)
        atlas.add(volume, torch.where(torch.arange(9) % 3 == 0, label, value), "case")
        votes.append(atlas(volume.flip(2).unsqueeze(0)))
    assert torch.equal(*votes)


def test_the_search_radius_is_that_of_known_organs(volume, label):
    atlas = make_atlas(search_radius=0.3)
    is_kept = torch.arange(14).view(-1, 1, 1) < 5
    open_label = torch.where(is_kept | (label == 0), label, -1)
    atlas.add(volume, open_label, "case")
    organ = atlas.centers[atlas.labels > 0]
    assert len(organ)
    assert torch.cdist(atlas.centers, organ).amin(dim=1).max() <= 0.3


@pytest.mark.parametrize("step", [1, 2, (2, 3, 4)])
def test_slices_that_lie_between_the_points_of_the_grid_are_taken(volume, label, step):
    """Of labels of every third slice, a step of 2 saw one half or none."""
    for first in range(3):
        atlas = make_atlas(step=step)
        num_voxels = atlas.add(volume, torch.where(torch.arange(9) % 3 == first, label, -1), "case")
        in_plane = len(VoxelGrid(SIZE, step).indices()) // VoxelGrid(SIZE, step).size[2]
        hop = step if isinstance(step, int) else step[2]
        assert num_voxels >= in_plane * min(3, 9 // hop - 1)


def test_a_volume_of_which_nothing_is_known_is_warned_of_and_takes_the_place_of_its_forerunner(volume, label, caplog):
    atlas = make_atlas()
    atlas.add(volume, label, "case")
    atlas.add(volume.flip(1), label, "other")
    expected = len(atlas.labels) // 2
    assert atlas.add(volume, torch.full_like(label, -1), "case") == 0
    assert "case: no voxel has a known class, none is taken" in caplog.text
    assert len(atlas.labels) == expected
    reloaded = make_atlas()
    reloaded.load_state_dict(atlas.state_dict())
    assert len(reloaded.volume_ids) == 2


def test_an_atlas_of_labels_without_known_background_is_refused(volume, label):
    atlas = make_atlas()
    atlas.add(volume, torch.where(label == 0, class_set([0, 2]), label), "case")
    with pytest.raises(ValueError, match=r"got none of \[0\]; add a volume whose background is labeled"):
        atlas.check_classes()
