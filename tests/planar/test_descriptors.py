"""Laws of the descriptors of voxels."""

from __future__ import annotations

import pytest
import torch

from common.planar import (
    CubicDescriptor,
    GrayValueDifference,
    JointDescriptor,
    LearnedCubeDescriptor,
    LearnedDescriptor,
    NeighborClassifier,
    PositionDescriptor,
    SiameseNetwork,
    TriplanarPretext,
    VoxelGrid,
    extract_descriptors,
    load_descriptors,
    sample_cubes,
    sample_slabs,
)

SIZES = {"out_channels": 32, "features": 8}
DESCRIPTORS = [
    lambda: LearnedDescriptor(**SIZES),
    lambda: LearnedDescriptor(**SIZES, mode="nearest", padding_mode="border"),
    lambda: LearnedCubeDescriptor(**SIZES),
    lambda: GrayValueDifference(12),
    lambda: GrayValueDifference(12, centered=True, padding_mode="border"),
    PositionDescriptor,
    lambda: JointDescriptor([LearnedDescriptor(**SIZES), GrayValueDifference(12)]),
]


@pytest.fixture
def centers(volume):
    """Return 35 places, more than fit in a batch on the CPU."""
    grid = VoxelGrid(volume.shape[1:], 3)
    return grid.centers(grid.indices())[:35]


@pytest.fixture(params=DESCRIPTORS)
def descriptor(request):
    torch.manual_seed(0)
    return request.param()


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_a_place_is_described_the_same_in_any_batch(descriptor, volume, centers, batch_size):
    batched = extract_descriptors(volume, descriptor, centers, batch_size)
    assert batched.shape == (35, descriptor.out_channels)
    with torch.no_grad():
        singles = torch.cat([descriptor(volume, center.unsqueeze(0)) for center in centers])
    torch.testing.assert_close(batched, singles, atol=1e-5, rtol=1e-5)


def test_different_places_have_different_descriptors(descriptor, volume, centers):
    descriptors = extract_descriptors(volume, descriptor, centers)
    assert (torch.cdist(descriptors, descriptors) + torch.eye(35)).min() > 1e-3


def test_no_gradient_is_kept(descriptor, volume, centers):
    assert not extract_descriptors(volume, descriptor, centers).requires_grad


def test_no_place_gives_no_descriptor(descriptor, volume):
    assert extract_descriptors(volume, descriptor, torch.empty(0, 3)).shape == (0, descriptor.out_channels)


def test_the_three_planar_networks_see_the_slabs_of_their_axes(volume, centers):
    descriptor = LearnedDescriptor(**SIZES, half_width=0.3, half_depth=0.1, padding_mode="border")
    parts = descriptor(volume, centers).split(32, dim=1)
    for axis, part in enumerate(parts):
        slabs = sample_slabs(volume, centers, axis, 0.3, 0.1, padding_mode="border")
        torch.testing.assert_close(part, descriptor.descriptors[axis](slabs).flatten(1))


def test_the_cubic_network_sees_the_cube_around_a_place(volume, centers):
    descriptor = LearnedCubeDescriptor(**SIZES, half_width=0.3)
    expected = descriptor.descriptor(sample_cubes(volume, centers, 0.3)).flatten(1)
    torch.testing.assert_close(descriptor(volume, centers), expected)


@pytest.mark.parametrize("descriptor", [LearnedDescriptor, LearnedCubeDescriptor, GrayValueDifference])
def test_a_descriptor_has_as_many_numbers_as_the_papers(descriptor):
    assert descriptor().out_channels == 192


def test_a_difference_of_gray_values_is_that_between_two_places():
    """In a volume whose value is linear in the coordinates, a difference is linear in the offsets."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, edge) for edge in (5, 6, 7)), indexing="ij")
    slope = torch.tensor([1.0, -2.0, 0.5])
    volume = sum(factor * axis for factor, axis in zip(slope, axes, strict=True)).unsqueeze(0)
    descriptor = GrayValueDifference(20, sigma=0.1)
    centers = torch.tensor([[0.0, 0.0, 0.0], [0.2, -0.3, 0.1]])
    expected = (descriptor.offsets[:, 0] - descriptor.offsets[:, 1]) @ slope
    torch.testing.assert_close(descriptor(volume, centers), expected.expand(2, -1), atol=1e-5, rtol=1e-5)


def test_centered_differences_are_those_to_the_voxel_itself(volume):
    descriptor = GrayValueDifference(50, centered=True)
    center = torch.zeros(1, 3)
    brighter = volume.clone()
    brighter[0, 7 - 1 : 7 + 1, 5, 4] += 1  # the middle of 14 voxels lies between two
    assert (descriptor(brighter, center) - descriptor(volume, center)).mean() < -0.9
    assert not descriptor.offsets[:, 1].any()


def test_offsets_are_normally_distributed_and_drawn_from_the_seed():
    offsets = GrayValueDifference(2000, sigma=0.3).offsets
    assert offsets.mean().abs() < 0.01
    assert offsets.std() == pytest.approx(0.3, rel=0.05)
    assert torch.equal(offsets, GrayValueDifference(2000, sigma=0.3, seed=0).offsets)
    assert not torch.equal(offsets, GrayValueDifference(2000, sigma=0.3, seed=1).offsets)


def test_a_flat_volume_has_no_gray_value_differences():
    descriptors = GrayValueDifference(9, padding_mode="border")(torch.full((1, 4, 4, 4), 3.0), torch.rand(5, 3))
    torch.testing.assert_close(descriptors, torch.zeros(5, 9), atol=1e-5, rtol=0)


def test_positions_are_as_far_from_each_other_as_the_places_and_never_zero(volume):
    centers = torch.tensor([[0.0, 0.0, 0.0], [0.3, -0.4, 0.0], [-1.0, -1.0, -1.0]])
    descriptors = PositionDescriptor()(volume, centers)
    torch.testing.assert_close(torch.cdist(descriptors, descriptors), torch.cdist(centers, centers))
    assert descriptors.any(dim=1).all()


def test_a_joint_descriptor_has_the_numbers_of_its_parts_in_their_order(volume, centers):
    parts = [GrayValueDifference(5), LearnedDescriptor(**SIZES), PositionDescriptor()]
    joint = JointDescriptor(parts)
    assert joint.out_channels == 5 + 3 * 32 + 4
    expected = torch.cat([part(volume, centers) for part in parts], dim=1)
    torch.testing.assert_close(joint(volume, centers), expected)


@pytest.mark.parametrize("target", ["heatmap", "displacement"])
def test_planar_descriptors_carry_over_from_the_pretext_task(target, tmp_path):
    pretext = TriplanarPretext(target=target, **SIZES)
    torch.save(pretext.state_dict(), tmp_path / "pretext.pt")
    descriptor = load_descriptors(LearnedDescriptor(**SIZES), tmp_path / "pretext.pt")
    assert len(descriptor.state_dict()) == 3 * 18
    for name, value in descriptor.state_dict().items():
        assert torch.equal(value, pretext.state_dict()[name])


def test_cubic_descriptors_carry_over_from_the_pretext_task(tmp_path):
    pretext = SiameseNetwork(CubicDescriptor(1, **SIZES), NeighborClassifier(64))
    torch.save(pretext.state_dict(), tmp_path / "pretext.pt")
    descriptor = load_descriptors(LearnedCubeDescriptor(**SIZES), tmp_path / "pretext.pt")
    for name, value in descriptor.state_dict().items():
        assert torch.equal(value, pretext.state_dict()[name])


def test_every_part_of_a_joint_descriptor_that_learns_carries_over(tmp_path):
    pretext = TriplanarPretext(**SIZES)
    torch.save(pretext.state_dict(), tmp_path / "pretext.pt")
    gray = GrayValueDifference(12)
    joint = JointDescriptor([LearnedDescriptor(**SIZES), gray, LearnedDescriptor(**SIZES, half_width=0.8)])
    offsets = gray.offsets.clone()
    load_descriptors(joint, tmp_path / "pretext.pt")
    for part in (joint.parts[0], joint.parts[2]):
        for name, value in part.state_dict().items():
            assert torch.equal(value, pretext.state_dict()[name])
    assert torch.equal(gray.offsets, offsets)


def save_two_axes(path):
    """Save the weights of a pretext task but those of one axis."""
    weights = TriplanarPretext(**SIZES).state_dict()
    torch.save({name: value for name, value in weights.items() if name.split(".")[1] != "1"}, path)


def test_half_of_the_weights_are_not_carried_over_to_a_part(tmp_path):
    save_two_axes(tmp_path / "pretext.pt")
    joint = JointDescriptor([GrayValueDifference(12), LearnedDescriptor(**SIZES)])
    with pytest.raises(ValueError, match=r"descriptors\.1\.0\.conv\.weight must have shape .*, got nothing"):
        load_descriptors(joint, tmp_path / "pretext.pt")


@pytest.mark.parametrize("path", [None, "null", "random"])
def test_without_pretraining_the_weights_stay(path):
    descriptor = LearnedDescriptor(**SIZES)
    before = {name: value.clone() for name, value in descriptor.state_dict().items()}
    after = load_descriptors(descriptor, path).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_half_of_the_weights_are_not_carried_over(tmp_path):
    path = tmp_path / "pretext.pt"
    save_two_axes(path)
    with pytest.raises(
        ValueError, match=r"descriptors\.1\.0\.conv\.weight must have shape \(8, 3, 3, 3\), got nothing"
    ):
        load_descriptors(LearnedDescriptor(**SIZES), path)
    with pytest.raises(ValueError, match=r"descriptor\.0\.conv\.weight must have shape .*, got nothing"):
        load_descriptors(LearnedCubeDescriptor(**SIZES), path)
    weights = LearnedDescriptor(**SIZES).state_dict()
    torch.save({**weights, "descriptors.0.9.conv.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"no tensor that the network lacks, got descriptors\.0\.9\.conv\.weight"):
        load_descriptors(LearnedDescriptor(**SIZES), path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_channels": 0}, "out_channels must be a whole number from 1, got 0"),
        ({"sigma": 0.0}, r"sigma must be a number above 0, got 0\.0"),
    ],
)
def test_options_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GrayValueDifference(**arguments)


def test_gray_values_of_every_channel_differ_at_the_same_places(volume, centers):
    other = torch.randn(1, *volume.shape[1:])
    both = GrayValueDifference(7, in_channels=2)
    assert both.out_channels == 14 and both.offsets.shape == (7, 2, 3)
    alone = GrayValueDifference(7)
    expected = torch.cat((alone(volume, centers), alone(other, centers)), dim=1)
    assert torch.equal(both(torch.cat((volume, other)), centers), expected)


@pytest.mark.parametrize("kind", [LearnedDescriptor, LearnedCubeDescriptor])
def test_a_channel_without_weights_changes_nothing(kind, volume, centers):
    alone, both = kind(**SIZES), kind(**SIZES, in_channels=2)
    weights = alone.state_dict()
    for name, value in both.state_dict().items():
        if value.shape != weights[name].shape:  # the first convolutions
            weights[name] = torch.cat((weights[name], torch.zeros_like(weights[name])), dim=1)
    both.load_state_dict(weights)
    with torch.no_grad():
        expected, found = alone(volume, centers), both(torch.cat((volume, torch.randn_like(volume))), centers)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_parts_of_a_joint_descriptor_see_all_channels(volume, centers):
    parts = [PositionDescriptor(), GrayValueDifference(5, in_channels=2), LearnedDescriptor(**SIZES, in_channels=2)]
    joint = JointDescriptor(parts)
    assert joint.in_channels == 2
    assert joint(torch.cat((volume, volume)), centers).shape == (35, 4 + 10 + 96)
