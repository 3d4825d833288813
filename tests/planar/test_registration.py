"""Laws of the registration of two described volumes, and of the labels that it carries."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.planar import GrayValueDifference, PlanarAtlas, VoxelGrid
from common.planar.registration import carry_label, fuse_shares, principal_components, register_points

SIZE = (12, 11, 13)


@pytest.fixture
def features():
    """Return features of every point of a grid that are alike where points are near, of shape `(4, *SIZE)`."""
    noise = torch.randn(4, 1, 6, 6, 7, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, SIZE, mode="trilinear", align_corners=True)[:, 0]


def register(fixed, moving, is_known=None):
    is_known = torch.ones(SIZE, dtype=torch.bool) if is_known is None else is_known
    places = torch.arange(moving[0].numel()).view(SIZE)
    return register_points(fixed[:, is_known].T, is_known.nonzero(), SIZE, moving.flatten(1).T, places)


def test_a_volume_lies_where_it_is(features):
    assert register(features, features).abs().max() < 0.05


@pytest.mark.parametrize("shift", [(2, 0, 0), (0, -2, 1), (-3, 3, 2)])
def test_a_shift_is_found(features, shift):
    moved = features.roll(shift, dims=(1, 2, 3))
    inner = (slice(None), *(slice(4, -4),) * 3)
    found = register(features, moved)[inner].flatten(1)
    assert (found - torch.tensor(shift).view(3, 1)).abs().mean() < 0.25


def test_points_without_a_feature_stay_and_those_of_the_other_volume_cost_more_than_any_likeness(features):
    is_known = torch.ones(SIZE, dtype=torch.bool)
    is_known[:, :, :5] = False
    field = register(features, features.roll(1, dims=2), is_known)
    assert (field[:, ~is_known] == 0).all() and field[:, is_known].any()
    places = torch.full(SIZE, -1)
    places[:6] = torch.arange(places[:6].numel()).view(6, *SIZE[1:])
    alike = torch.zeros_like(features).flatten(1).T
    half = register_points(alike, torch.ones(SIZE).nonzero(), SIZE, alike, places)
    assert half.isfinite().all() and half[0, 8].mean() < -0.5  # towards what is described
    assert half[0, :3].abs().max() < 0.5


@pytest.mark.parametrize("step", [1, 2, (1, 2, 3)])
def test_what_is_not_moved_carries_its_label_over(step):
    label = torch.randint(-1, 3, SIZE, generator=torch.Generator().manual_seed(1))
    grid = VoxelGrid(SIZE, step)
    shares = carry_label(label, 3, torch.zeros(3, *grid.size), grid)
    torch.testing.assert_close(shares, torch.stack([(label == value).float() for value in range(3)]), atol=1e-5, rtol=0)


def test_a_displacement_carries_the_label_of_the_place_that_it_leads_to():
    label = torch.randint(0, 2, SIZE, generator=torch.Generator().manual_seed(1))
    grid = VoxelGrid(SIZE, 2)
    field = torch.zeros(3, *grid.size)
    field[1] = 1.5  # of a step of 2 voxels
    shares = carry_label(label, 2, field, grid)
    torch.testing.assert_close(shares[1, :, :-3], (label == 1).float()[:, 3:], atol=1e-4, rtol=0)


def test_a_label_of_another_size_is_carried_to_the_same_field_of_view():
    label = torch.zeros(6, 6, 6, dtype=torch.long)
    label[3:] = 1
    shares = carry_label(label, 2, torch.zeros(3, 11, 11, 11), VoxelGrid((11, 11, 11), 1))
    assert shares.shape == (2, 11, 11, 11)
    assert (shares[1, :5] == 0).all() and (shares[1, 6:] > 0.99).all()


def test_components_keep_the_distances_of_what_varies_in_a_few_ways():
    generator = torch.Generator().manual_seed(0)
    descriptors = (torch.randn(500, 5, generator=generator) @ torch.randn(5, 40, generator=generator)).half()
    mean, projection = principal_components(descriptors)
    assert projection.shape == (40, 32)
    standardized = descriptors.float() / descriptors.float().std(dim=0, correction=0)
    wanted = torch.cdist(standardized[:50], standardized[50:90]).square() / 40
    found = (descriptors.float() - mean) @ projection
    torch.testing.assert_close(torch.cdist(found[:50], found[50:90]).square(), wanted, rtol=1e-2, atol=1e-3)


def test_a_number_that_never_changes_does_not_count():
    descriptors = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    descriptors[:, 2] = 7
    mean, projection = principal_components(descriptors)
    assert projection.isfinite().all() and (projection[2] == 0).all() and mean[2] == 7


# ---- the product of votes and carried labels -----------------------------------------------------


def test_votes_alone_stay_what_they_are():
    votes = torch.rand(3, *SIZE)
    assert fuse_shares(votes, torch.rand(3, *SIZE), 0.0) is votes


def test_what_both_find_is_surer_and_what_is_not_known_changes_no_order():
    votes = torch.softmax(torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0)), dim=0)
    fused = fuse_shares(votes, votes, 1.0)
    torch.testing.assert_close(fused.sum(dim=0), torch.ones(SIZE))
    assert (fused.amax(dim=0) >= votes.amax(dim=0) - 1e-2).all()
    unknown = fuse_shares(votes, torch.zeros(3, *SIZE), 0.5)
    assert torch.equal(unknown.argmax(dim=0), votes.argmax(dim=0))


def make_atlas(**options):
    descriptor = GrayValueDifference(16, padding_mode="border")
    return PlanarAtlas(descriptor, 3, **{"step": 1, "num_neighbors": 3, "smoothing": 0.5, **options})


def test_an_atlas_with_maps_votes_as_one_without_when_they_do_not_count(volume, label):
    """Also where a part of the background votes."""
    plain, fused = make_atlas(max_background=90), make_atlas(max_background=90, fusion_weight=0.5)
    for atlas in (plain, fused):
        atlas.add(volume, label, "one")
        atlas.add(volume.flip(1), label.flip(1), "two")
    assert len(fused.labels) > len(plain.labels) == int(fused.is_voter.sum())
    image = volume.roll(1, dims=2).unsqueeze(0)
    assert not torch.equal(fused(image), plain(image))
    fused.fusion_weight = 0.0
    assert torch.equal(fused(image), plain(image))


def test_carried_labels_find_again_a_volume_that_has_moved(volume, label):
    atlas, votes = make_atlas(fusion_weight=1.0, max_background=60), make_atlas(max_background=60)
    for each in (atlas, votes):
        each.add(volume, label, "case")
    moved = volume.roll((2, 1), dims=(1, 2)) + 0.2 * torch.randn(
        volume.shape, generator=torch.Generator().manual_seed(1)
    )
    truth = label.roll((2, 1), dims=(1, 2))[0]
    scores = [float((each(moved[None]).argmax(dim=1)[0] == truth).float().mean()) for each in (votes, atlas)]
    assert scores[0] < 0.5 and scores[1] > 0.8


def test_the_order_of_the_volumes_does_not_matter(volume, label):
    parts = [("one", volume, label), ("two", volume.flip(1), label.flip(1)), ("three", volume.flip(2), label.flip(2))]
    results = []
    for order in (parts, parts[::-1]):
        atlas = make_atlas(fusion_weight=0.5)
        for name, image, classes in order:
            atlas.add(image, classes, name)
        results.append(atlas(volume.roll(1, dims=3)[None]))
    torch.testing.assert_close(*results, atol=1e-3, rtol=1e-3)


def test_maps_are_stored_replaced_and_loaded_with_their_volumes(volume, label):
    atlas = make_atlas(fusion_weight=0.5)
    open_label = torch.where(torch.arange(9) < 3, -1, label)
    small = volume[:, 2:], label[:, 2:]
    atlas.add(volume, label, "one")
    atlas.add(volume, open_label, "two")
    atlas.add(*small, "three")
    atlas.add(volume, label.flip(1), "one")  # in place of the first
    expected = [open_label, small[1], label.flip(1)]
    for index, wanted in enumerate(expected):
        assert torch.equal(atlas._label_map(index), wanted[0].long())
    other = make_atlas(fusion_weight=0.5)
    other.load_state_dict(atlas.state_dict())
    image = volume.roll(1, dims=2)[None]
    assert torch.equal(atlas(image), other(image))


def test_an_atlas_of_an_earlier_version_votes_and_says_that_nothing_is_carried(volume, label, caplog):
    plain = make_atlas()
    plain.add(volume, label, "case")
    older = {
        name: value for name, value in plain.state_dict().items() if name not in ("is_voter", "label_maps", "map_sizes")
    }
    atlas = make_atlas(fusion_weight=0.5)
    atlas.load_state_dict(older)
    image = volume.roll(1, dims=2)[None]
    assert torch.equal(atlas(image), plain(image))
    assert "atlas has volumes without a label map, which only vote" in caplog.text


def test_a_map_that_does_not_fit_its_volume_is_refused(volume, label):
    atlas = make_atlas(fusion_weight=0.5)
    atlas.add(volume, label, "case")
    state = atlas.state_dict()
    with pytest.raises(RuntimeError, match="label_maps must have shape"):
        make_atlas().load_state_dict({**state, "label_maps": state["label_maps"][1:]})
    with pytest.raises(RuntimeError, match="label_maps must be from 0 to 3"):
        make_atlas().load_state_dict({**state, "label_maps": state["label_maps"] + 3})
