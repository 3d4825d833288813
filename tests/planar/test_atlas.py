"""Laws of the segmentation with an atlas of described voxels."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from common.planar import (
    GrayValueDifference,
    LearnedDescriptor,
    PlanarAtlas,
    PositionDescriptor,
    VoxelGrid,
    extract_descriptors,
    nearest_neighbors,
    vote_confidence,
)

SIZE = (14, 11, 9)


@pytest.fixture
def label():
    """Return classes 0 to 2, two boxes in a background, of shape `(1, 14, 11, 9)`."""
    label = torch.zeros(1, *SIZE)
    label[0, 2:8, 1:6, 2:7] = 1
    label[0, 9:13, 5:10, 1:8] = 2
    return label


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


def test_votes_add_up_to_one_and_the_winner_is_the_confidence(volume, label):
    atlas = make_atlas(num_neighbors=7, step=3)
    atlas.add(volume, label, "case")
    votes = atlas(torch.rand(2, 1, 10, 7, 12))
    torch.testing.assert_close(votes.sum(dim=1), torch.ones(2, 10, 7, 12))
    assert torch.equal(vote_confidence(votes), votes.max(dim=1, keepdim=True).values)
    assert torch.equal(vote_confidence(votes[0]), vote_confidence(votes)[0])


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


def test_one_more_volume_only_appends(volume, label):
    atlas = make_atlas(step=2, max_background=50)
    atlas.add(volume, label, "first")
    before = {name: value.clone() for name, value in atlas.state_dict().items()}
    num_voxels = atlas.add(volume.flip(1), label.flip(1), "second")
    after = atlas.state_dict()
    for name in ("descriptors", "centers", "labels", "volumes", "volume_ids", "fingerprints"):
        assert torch.equal(after[name][: len(before[name])], before[name])
    assert len(after["labels"]) == len(before["labels"]) + num_voxels
    assert after["volumes"].unique().tolist() == [0, 1]
    assert torch.equal(after["class_counts"], atlas.labels.long().bincount())


def test_what_a_volume_adds_does_not_depend_on_the_others(volume, label):
    alone, second = (make_atlas(step=2, max_background=50) for _ in range(2))
    second.add(volume.flip(1), label.flip(1), "other")
    rows = slice(len(second.labels), None)
    alone.add(volume, label, "case")
    second.add(volume, label, "case")
    for name in ("descriptors", "centers", "labels"):
        assert torch.equal(getattr(second, name)[rows], getattr(alone, name))


def test_a_volume_of_the_same_identifier_is_replaced(volume, label):
    corrected = label.roll(1, dims=2)
    atlas, expected = make_atlas(step=2), make_atlas(step=2)
    for name, value in (("a", label), ("b", label.flip(1)), ("c", label.flip(2)), ("b", corrected)):
        atlas.add(volume, value, name)
    for name, value in (("a", label), ("c", label.flip(2)), ("b", corrected)):
        expected.add(volume, value, name)
    for name, value in expected.state_dict().items():
        assert torch.equal(atlas.state_dict()[name], value)


def test_caps_hold_for_one_volume_and_for_all(volume, label):
    atlas = make_atlas(max_background=60, max_voxels=400)
    assert atlas.add(volume, label, "first") == 350
    assert atlas.class_counts.tolist() == [60, 150, 140]
    with pytest.raises(ValueError, match="max_voxels must be at least 700 for one more volume, got 400"):
        atlas.add(volume, label, "second")
    assert atlas.add(volume, label, "first") == len(atlas.labels) == 350  # in place of itself, there is room


@pytest.mark.parametrize(("num_classes", "dtype"), [(256, torch.uint8), (257, torch.int16)])
def test_labels_have_the_smallest_type_that_holds_them(volume, label, num_classes, dtype):
    atlas = PlanarAtlas(PositionDescriptor(), num_classes)
    atlas.add(volume, label.clamp(max=1) * (num_classes - 1), "case")
    assert atlas.labels.dtype == dtype
    assert atlas.labels.max() == num_classes - 1


def test_the_atlas_takes_its_sizes_from_the_checkpoint(volume, label, tmp_path):
    torch.manual_seed(0)
    atlas = PlanarAtlas(LearnedDescriptor(32, 8), 300, step=3, num_neighbors=3)
    atlas.add(volume, label, "first")
    atlas.add(volume.flip(2), 299 - label, "second")
    atlas.class_counts.clamp_(min=1)
    torch.save(atlas.state_dict(), tmp_path / "model.pt")
    other = PlanarAtlas(LearnedDescriptor(32, 8), step=3, num_neighbors=3)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert other.num_classes == 300
    for name, value in atlas.state_dict().items():
        assert value.dtype == other.state_dict()[name].dtype
        assert torch.equal(value, other.state_dict()[name])
    image = torch.rand(1, 1, *SIZE)
    assert torch.equal(atlas(image), other(image))
    assert other.add(volume, label, "first") == atlas.add(volume, label, "first")


def test_names_of_the_state_dict_stay():
    names = ["descriptors", "centers", "labels", "volumes", "volume_ids", "fingerprints", "recipes", "class_counts"]
    assert list(make_atlas().state_dict()) == [*names, "settings", "descriptor.offsets"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.9}, "offset_sigma must be that of the atlas, 0.4, got 0.9"),
        ({"mode": "nearest"}, "sampling must be that of the atlas, bilinear, got nearest"),
        ({"padding_mode": "border"}, "padding must be that of the atlas, zeros, got border"),
    ],
)
def test_an_atlas_that_was_described_otherwise_is_refused(volume, label, options, message):
    atlas = PlanarAtlas(GrayValueDifference(16), 3)
    atlas.add(volume, label, "a")
    PlanarAtlas(GrayValueDifference(16), 3).load_state_dict(atlas.state_dict())
    with pytest.raises(RuntimeError, match=message):
        PlanarAtlas(GrayValueDifference(16, **options), 3).load_state_dict(atlas.state_dict())


@pytest.mark.parametrize(
    ("own", "of_atlas", "expected"), [(0.3, 0.2, 0.2), (0.1, 0.2, 0.1), (None, 0.2, 0.2), (0.2, None, 0.2)]
)
def test_nothing_is_sought_beyond_the_radius_of_the_atlas(volume, label, own, of_atlas, expected):
    atlas = PlanarAtlas(GrayValueDifference(16), 3, step=1, search_radius=of_atlas)
    atlas.add(volume, label, "a")
    other = PlanarAtlas(GrayValueDifference(16), 3, search_radius=own)
    other.load_state_dict(atlas.state_dict())
    assert other.search_radius == expected
    again = PlanarAtlas(GrayValueDifference(16), 3, search_radius=0.5)
    again.load_state_dict(other.state_dict())
    assert again.search_radius == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("labels", 3, r"labels must be from 0 to 2, got \[3\]"),
        ("volumes", 1, r"volumes must be below 1, got \[1\]"),
        ("settings", 7, "settings must be JSON"),
    ],
)
def test_a_damaged_checkpoint_is_refused(volume, label, name, value, message):
    atlas = PlanarAtlas(GrayValueDifference(16), 3)
    atlas.add(volume, label, "a")
    weights = atlas.state_dict()
    weights[name] = torch.full_like(weights[name], value)
    with pytest.raises(RuntimeError, match=message):
        PlanarAtlas(GrayValueDifference(16), 3).load_state_dict(weights)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("descriptors", r"descriptors must have shape \(280, 16\), got \(5, 16\)"),
        ("centers", r"centers must have shape \(280, 3\), got \(5, 3\)"),
        ("volumes", r"volumes must have shape \(280,\), got \(5,\)"),
        ("fingerprints", r"fingerprints must have shape \(1,\), got \(0,\)"),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused(volume, label, name, message):
    atlas = make_atlas(step=(1, 2, 2))
    atlas.add(volume[:, :, :, :8], label[:, :, :, :8], "case")
    weights = atlas.state_dict()
    weights[name] = weights[name][:5] if name != "fingerprints" else weights[name][:0]
    with pytest.raises(RuntimeError, match=message):
        make_atlas().load_state_dict(weights)


def test_a_checkpoint_of_another_descriptor_is_refused(volume, label):
    atlas = make_atlas(PositionDescriptor())
    atlas.add(volume, label, "case")
    with pytest.raises(RuntimeError, match=r"descriptors must have shape \(1386, 16\), got \(1386, 4\)"):
        make_atlas().load_state_dict(atlas.state_dict(), strict=False)


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


def test_an_atlas_that_lacks_a_class_is_not_finished_and_not_loaded(volume, label):
    atlas = make_atlas()
    atlas.check_classes()
    atlas.add(volume, label.clamp(max=1), "case")
    message = r"atlas must have voxels of every class, got none of \[2\]; add volumes that have them"
    with pytest.raises(ValueError, match=message):
        atlas.check_classes()
    with pytest.raises(RuntimeError, match=message):
        make_atlas().load_state_dict(atlas.state_dict())
    atlas.add(volume, label, "other")
    atlas.check_classes()
    make_atlas().load_state_dict(atlas.state_dict())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, r"label must have classes from 0 to 2, got \[3\.0\]"),
        (-1.0, r"label must have classes from 0 to 2, got \[-1\.0\]"),
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
    ("options", "error", "message"),
    [
        ({"num_classes": 1}, ValueError, "num_classes must be from 2 to 32768, got 1"),
        ({"num_neighbors": 0}, ValueError, "num_neighbors must be at least 1, got 0"),
        ({"num_neighbors": 1.5}, TypeError, r"num_neighbors must be a whole number, got 1\.5"),
        ({"max_background": 0}, ValueError, "max_background must be at least 1, got 0"),
        ({"max_background": "9"}, TypeError, "max_background must be a whole number, got '9'"),
        ({"max_voxels": -1}, ValueError, "max_voxels must be at least 1, got -1"),
        ({"voting": "all"}, ValueError, r"voting must be one of \['majority', 'distance'\], got 'all'"),
        (
            {"normalization": None},
            ValueError,
            r"normalization must be one of \['none', 'l2', 'standardize'\], got None",
        ),
        ({"position_weight": -0.1}, ValueError, r"position_weight must not be negative, got -0\.1"),
    ],
)
def test_options_out_of_range_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        PlanarAtlas(PositionDescriptor(), **options)


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


@pytest.mark.parametrize("radius", [0, -1.0])
def test_a_search_radius_that_finds_nothing_is_refused(radius):
    with pytest.raises(ValueError, match="search_radius must be above 0"):
        make_atlas(search_radius=radius)


def test_smoothed_votes_are_averages_of_those_around_them_and_add_up_to_one(volume, label):
    rough, smooth = make_atlas(num_neighbors=3), make_atlas(num_neighbors=3, smoothing=0.8)
    for atlas in (rough, smooth):
        atlas.add(volume, label, "case")
    image = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    votes = smooth(image)
    torch.testing.assert_close(votes.sum(1), torch.ones(1, *SIZE))
    filters = [
        gaussian_filter(values, 0.8, mode="constant", truncate=4) for values in (*rough(image)[0], np.ones(SIZE))
    ]
    torch.testing.assert_close(
        votes[0], torch.from_numpy(np.stack(filters[:-1]) / filters[-1]).float(), atol=1e-5, rtol=0
    )


def test_an_empty_atlas_votes_for_background_with_a_warning(volume, caplog):
    votes = make_atlas()(volume[None])
    assert "atlas is empty" in caplog.text
    assert votes.shape == (1, 3, *SIZE) and (votes[:, 0] == 1).all() and not votes[:, 1:].any()


def test_a_negative_smoothing_is_refused():
    with pytest.raises(ValueError, match="smoothing must not be negative, got -1"):
        make_atlas(smoothing=-1)


def test_votes_for_the_background_count_as_much_as_asked(volume, label):
    plain, weighted = make_atlas(num_neighbors=5), make_atlas(num_neighbors=5, background_weight=3)
    for atlas in (plain, weighted):
        atlas.add(volume, label, "case")
    image = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    expected = plain(image) * torch.tensor([3.0, 1, 1]).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(weighted(image), expected / expected.sum(1, keepdim=True))
    with pytest.raises(ValueError, match="background_weight must be above 0, got 0"):
        make_atlas(background_weight=0)
