"""Laws of what an atlas stores, and of its state dict."""

from __future__ import annotations

import pytest
import torch

from common.planar import GrayValueDifference, LearnedDescriptor, PlanarAtlas, PositionDescriptor

SIZE = (14, 11, 9)


def make_atlas(descriptor=None, **options):
    return PlanarAtlas(descriptor or GrayValueDifference(16), 3, **{"step": 1, "num_neighbors": 1, **options})


def test_names_of_the_state_dict_stay():
    names = ["descriptors", "centers", "labels", "is_voter", "volumes", "volume_ids", "fingerprints", "recipes"]
    names += ["label_maps", "map_sizes", "class_counts", "settings", "descriptor.offsets"]
    assert list(make_atlas().state_dict()) == names


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
