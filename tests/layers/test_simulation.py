"""Laws of simulated tumors: what they are made of, and how they lie in a scan."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from common.layers import LAYERS, RandStarShape, RandTumorLayers, compose_layers, split_layers

SIZE = (24, 26, 22)
SPACING = (1.0, 1.25, 1.5)
VOXEL_MM3 = math.prod(SPACING)


@pytest.fixture
def scans():
    """Return a scan, an organ (an ellipsoid around its middle) and a donor, of shape `(1, *SIZE)`."""
    generator = torch.Generator().manual_seed(0)
    image, donor = (0.5 + torch.rand(1, *SIZE, generator=generator) for _ in range(2))
    axes = torch.meshgrid(*[torch.linspace(-1, 1, length) for length in SIZE], indexing="ij")
    organ = (torch.stack(axes).square().sum(0) < 0.85)[None].to(torch.uint8)
    return image, organ, donor


def simulation(seed=0, volume=(300.0, 1500.0), **options):
    options = {"prob": 1.0, **options}
    return RandTumorLayers(RandStarShape(volume), **options).set_random_state(seed)


def simulate(scans, seed=0, **options):
    """Return the layers by name, and the parameters of the tumors."""
    transform = simulation(seed, **options)
    return dict(zip(LAYERS, transform(*scans, SPACING), strict=True)), transform.parameters


def composed(layers):
    return compose_layers(*(layers[name] for name in ("organ", "tumor", "mask", "alpha")))


KINDS = [
    {},
    {"edge_blur": (1.0, 2.0)},
    {"num_tumors": (2, 3), "volume": (100.0, 300.0)},
    {"num_tumors": (3, 3), "edge_blur": (0.5, 1.5), "volume": (100.0, 300.0)},
]

every_kind = pytest.mark.parametrize("options", KINDS, ids=["one", "soft edge", "several", "several soft edges"])
every_target = pytest.mark.parametrize("target", ["texture", "blended"])


# ---- layers --------------------------------------------------------------------------------------


@every_target
@every_kind
def test_the_true_layers_compose_the_scan(scans, target, options):
    for seed in range(5):
        layers, parameters = simulate(scans, seed, target=target, **options)
        assert parameters
        torch.testing.assert_close(composed(layers), layers["image"], atol=1e-6, rtol=0)


@every_target
@every_kind
def test_the_scan_changes_inside_of_the_mask_only_and_the_organ_layer_is_the_scan_without_a_tumor(
    scans, target, options
):
    for seed in range(5):
        layers, _ = simulate(scans, seed, target=target, **options)
        outside = layers["mask"] == 0
        assert torch.equal(layers["organ"], scans[0][0])
        assert torch.equal(layers["image"][outside], scans[0][0][outside])
        assert not layers["tumor"][outside].any()
        assert (layers["image"] != scans[0][0])[layers["mask"] > 0.1].float().mean() > 0.99


@every_kind
def test_blended_is_the_scan_inside_the_mask_of_the_same_tumor_with_opacity_1(scans, options):
    texture, _ = simulate(scans, 3, **options)
    blended, _ = simulate(scans, 3, target="blended", **options)
    for name in ("organ", "mask", "image"):
        assert torch.equal(blended[name], texture[name])
    assert (blended["alpha"] == 1).all()
    whole = texture["mask"] == 1
    torch.testing.assert_close(blended["tumor"][whole], texture["image"][whole])


def test_a_scan_is_blended_by_equation_5():
    organ, tumor = torch.tensor([1.0, 1, 1, 1]), torch.tensor([3.0, 3, 3, 3])
    mask, alpha = torch.tensor([0.0, 1, 1, 0.5]), torch.tensor([0.5, 0.5, 1, 0.5])
    assert compose_layers(organ, tumor, mask, alpha).tolist() == [1, 2, 3, 1.5]


@every_kind
def test_masks_lie_inside_the_organ_and_are_whole_numbers_where_the_edge_is_hard(scans, options):
    for seed in range(5):
        layers, _ = simulate(scans, seed, **options)
        assert not layers["mask"][scans[1][0] == 0].any()
        assert layers["mask"].min() >= 0 and layers["mask"].max() <= 1
        if "edge_blur" not in options:
            assert set(layers["mask"].unique().tolist()) == {0, 1}


def test_a_mask_is_one_component_of_about_the_reported_volume(scans):
    """Voxels behind a border of the organ lay apart from their tumor."""
    for seed in range(25):
        layers, (tumor,) = simulate(scans, seed)
        mask = layers["mask"].numpy() > 0
        assert ndimage.label(mask)[1] == 1 and mask[tumor.center]
        if not any(mask.take(end, axis).any() for axis in range(3) for end in (0, -1)):
            assert mask.sum() * VOXEL_MM3 == pytest.approx(tumor.volume_mm3, rel=0.1 + 0.03)  # and what voxels round


@pytest.mark.parametrize("organ", ["gap", "holes"])
def test_a_mask_is_one_component_in_organs_with_gaps_and_holes(scans, organ):
    image, inside, donor = scans
    inside = torch.ones_like(inside)
    if organ == "gap":
        inside[:, 12] = 0
    else:
        inside[torch.rand(inside.shape, generator=torch.Generator().manual_seed(1)) < 0.01] = 0
    found = 0
    for seed in range(25):
        layers, parameters = simulate((image, inside, donor), seed)
        mask = layers["mask"].numpy() > 0
        found += len(parameters)
        assert ndimage.label(mask)[1] == len(parameters)
        assert not (mask & (inside[0] == 0).numpy()).any()
    assert found > 15


def test_a_tumor_that_does_not_fit_shrinks_and_its_volume_is_reported(scans):
    image, organ, donor = scans
    small = torch.zeros_like(organ)
    small[:, 9:15, 10:16, 9:13] = 1  # 216 voxels of 1.9 mm^3
    for seed in range(5):
        layers, (tumor,) = simulate((image, small, donor), seed, volume=(1000.0, 1000.0))
        assert tumor.volume_mm3 < 300
        shrinks = math.log(tumor.volume_mm3 / 1000) / math.log(0.6)
        assert shrinks == pytest.approx(round(shrinks))
        assert not layers["mask"][small[0] == 0].any() and layers["mask"].any()


def test_several_tumors_do_not_overlap(scans):
    for seed in range(8):
        layers, parameters = simulate(scans, seed, num_tumors=(3, 3), volume=(100.0, 300.0))
        assert len(parameters) == 3
        mask = layers["mask"] > 0
        volume = sum(tumor.volume_mm3 for tumor in parameters)
        assert 0.85 * volume <= mask.sum() * VOXEL_MM3 <= 1.08 * volume
        for tumor in parameters:  # each is still there
            assert layers["mask"][tumor.center] == 1
            assert layers["alpha"][tumor.center] == pytest.approx(tumor.alpha)


def test_the_number_of_tumors_is_in_its_range(scans):
    counts = [len(simulate(scans, seed, num_tumors=(1, 3), volume=(50.0, 60.0))[1]) for seed in range(30)]
    assert {*counts} == {1, 2, 3}


def test_centers_lie_all_over_the_organ(scans):
    centers = np.array([simulate(scans, seed, volume=(5.0, 6.0))[1][0].center for seed in range(60)])
    assert (np.ptp(centers, axis=0) > np.array(SIZE) / 2).all()
    assert all(scans[1][0][tuple(center)] for center in centers)


# ---- what a tumor looks like ---------------------------------------------------------------------


@every_kind
def test_the_texture_has_the_reported_share_of_the_organs_mean(scans, options):
    ranges = [(0.5, 0.7), (2.0, 2.5)]
    mean = scans[0][scans[1] > 0].mean()
    seen = set()
    for seed in range(12):
        layers, parameters = simulate(scans, seed, intensity_ratio=ranges, **options)
        for tumor in parameters:
            (share,) = tumor.intensity_ratio
            (index,) = [number for number, (low, high) in enumerate(ranges) if low <= share <= high]
            seen.add(index)
        if len(parameters) == 1 and tumor.edge_blur == 0:
            ratio = layers["tumor"][layers["mask"] > 0].mean() / mean
            assert ratio.item() == pytest.approx(share, rel=1e-4)
    assert seen == {0, 1}


def test_opacities_and_blurs_are_in_their_ranges(scans):
    for seed in range(12):
        layers, (tumor,) = simulate(scans, seed, alpha=(0.3, 0.6), blur=(0.5, 1.0), edge_blur=(0.2, 0.3))
        assert 0.3 <= tumor.alpha <= 0.6 and 0.5 <= tumor.blur <= 1.0 and 0.2 <= tumor.edge_blur <= 0.3
        assert layers["alpha"].min() >= 0.3 and layers["alpha"].max() <= 0.6
        assert (layers["alpha"][layers["mask"] > 0] == np.float32(tumor.alpha)).all()


@pytest.mark.parametrize("edge", [0, 1], ids=["even", "odd"])
def test_without_any_transform_the_texture_is_the_middle_of_the_donor_as_it_is(scans, edge):
    """In patches of even size the texture lay half a voxel aside, and interpolation blurred it."""
    scans = [scan[:, edge:, edge:, edge:] for scan in scans]
    options = {"elastic": 0.0, "blur": (0.0, 0.0), "intensity_ratio": None}
    for seed in range(4):
        layers, (tumor,) = simulate(scans, seed, **options)
        shift = [middle - length // 2 for middle, length in zip(tumor.center, scans[0].shape[1:], strict=True)]
        expected = torch.roll(scans[2][0], shift, dims=(0, 1, 2))
        half = [min(length // 2 - 1, 8) for length in SIZE]
        near = torch.zeros_like(layers["mask"], dtype=torch.bool)
        near[tuple(slice(max(c - h, 0), c + h) for c, h in zip(tumor.center, half, strict=True))] = True
        where = near & (layers["mask"] > 0)
        assert where.sum() > 100
        torch.testing.assert_close(layers["tumor"][where], expected[where], atol=1e-5, rtol=0)
        assert all(map(math.isnan, tumor.intensity_ratio))


def test_beyond_a_small_donor_the_texture_is_mirrored(scans):
    """Nothing of it is 0, although the body is larger than the donor's half."""
    layers, (tumor,) = simulate(scans, 1, volume=(4000.0, 4000.0), elastic=20.0, blur=(0.0, 0.0), intensity_ratio=None)
    texture = layers["tumor"][layers["mask"] > 0]
    assert texture.min() >= 0.5 and texture.max() <= 1.5
    assert tumor.volume_mm3 > 1000


def test_each_transform_of_the_texture_changes_it_in_its_way(scans):
    plain = {"elastic": 0.0, "blur": (0.0, 0.0), "intensity_ratio": None}
    still, _ = simulate(scans, 2, **plain)
    inside = still["mask"] > 0
    textures = {}
    for name, value in (("elastic", 5.0), ("blur", (1.5, 1.5)), ("intensity_ratio", [(2.0, 2.0)])):
        layers, _ = simulate(scans, 2, **{**plain, name: value})
        if name != "intensity_ratio":  # whose draw comes before that of the displacements only
            assert torch.equal(layers["mask"], still["mask"])
        textures[name] = layers["tumor"][inside]
    before = still["tumor"][inside]
    assert not torch.allclose(textures["elastic"], before, atol=0.1)
    assert textures["elastic"].min() >= 0.5 and textures["elastic"].max() <= 1.5
    assert textures["blur"].std() < 0.5 * before.std()
    assert textures["blur"].mean() == pytest.approx(before.mean().item(), rel=0.05)
    factor = textures["intensity_ratio"] / before
    torch.testing.assert_close(factor, torch.full_like(factor, factor[0].item()))


def test_displacements_are_in_millimeters(scans):
    """A donor that rises by 1 per mm along an axis shows how far its voxels were moved."""
    image, organ, _ = scans
    organ = torch.ones_like(organ)
    for axis, edge in enumerate(SPACING):
        shape = [-1 if other == axis else 1 for other in range(3)]
        ramp = (edge * torch.arange(SIZE[axis])).float().view(shape).expand(1, *SIZE)
        moves = []
        for seed in range(20):
            options = {"volume": (100.0, 100.0), "intensity_ratio": None, "blur": (0.0, 0.0)}
            still, (tumor,) = simulate((image, organ, ramp), seed, elastic=0.0, **options)
            moved, _ = simulate((image, organ, ramp), seed, elastic=1.0, **options)
            moves.append((moved["tumor"] - still["tumor"])[tumor.center].item())
        assert 0.6 < np.std(moves) < 1.5


def test_a_soft_edge_falls_off_within_the_organ_around_the_same_body(scans):
    hard, _ = simulate(scans, 4)
    soft, _ = simulate(scans, 4, edge_blur=(1.0, 1.0))
    assert ((soft["mask"] > 0) & (soft["mask"] < 1)).any()
    grown = torch.from_numpy(ndimage.binary_dilation(hard["mask"].numpy() > 0, iterations=9))
    assert not soft["mask"][~grown].any()
    overlap = ((soft["mask"] > 0.5) & (hard["mask"] > 0)).sum() / (hard["mask"] > 0).sum()
    assert overlap > 0.8
    assert soft["mask"][soft["mask"] > 0].min() >= 0.01


class LayersAt(RandTumorLayers):
    """Tumors with a given center."""

    center = (0, 0, 0)

    def _place(self, inside, candidates, spacing, places):
        return self.shape(spacing, inside.device, randomize=False), self.center, 1.0


@pytest.mark.parametrize("edge_blur", [(0.0, 0.0), (2.0, 3.0)], ids=["hard", "soft"])
def test_the_layers_of_a_patch_are_a_part_of_those_of_a_larger_one(scans, edge_blur):
    """Softened borders faded, and blurred textures darkened, at the ends of a patch, where a tumor goes on."""
    image, _, donor = scans
    margin = 30
    for seed, center in enumerate([(1, 13, 11), (12, 24, 20), (23, 0, 11), (12, 13, 11)]):
        layers = []
        for width in (0, margin):
            padded = [torch.from_numpy(np.pad(scan[0], width, "symmetric"))[None] for scan in (image, donor)]
            options = {"edge_blur": edge_blur, "blur": (1.0, 2.0), "intensity_ratio": None, "prob": 1.0}
            transform = LayersAt(RandStarShape((1500.0, 3000.0)), **options).set_random_state(seed)
            transform.center = tuple(middle + width for middle in center)
            layers.append(transform(padded[0], torch.ones_like(padded[0]), padded[1], SPACING))
        part = layers[1][:, margin:-margin, margin:-margin, margin:-margin]
        inside = part[2] > 0
        assert inside.sum() > 300
        torch.testing.assert_close(layers[0][[0, 1, 2, 4]], part[[0, 1, 2, 4]], atol=1e-5, rtol=0)
        torch.testing.assert_close(layers[0][3][inside], part[3][inside])


def test_the_texture_of_a_constant_donor_is_constant(scans):
    image, organ, donor = scans
    for seed in range(5):
        layers, _ = simulate(
            (image, organ, torch.full_like(donor, 2.0)),
            seed,
            blur=(3.0, 3.0),
            edge_blur=(1.0, 2.0),
            intensity_ratio=None,
        )
        inside = layers["mask"] > 0
        torch.testing.assert_close(layers["tumor"][inside], torch.full_like(layers["tumor"][inside], 2.0))


@pytest.mark.parametrize(
    ("spacing", "size", "volume", "sigma"),
    [
        ((3.0, 3.0, 7.0), (48, 48, 16), (4000.0, 50_000.0), 4.5),
        ((2.0, 2.0, 5.0), (56, 56, 20), (2000.0, 30_000.0), 3.0),
    ],
    ids=["small.yaml", "liver.yaml"],
)
def test_soft_masks_in_thick_slices_are_one_component_of_the_drawn_volume(spacing, size, volume, sigma):
    """Four in ten were off by more than a tenth, and some had a second piece."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, length) for length in size], indexing="ij")
    organ = (torch.stack(axes).square().sum(0) < 0.8)[None].to(torch.uint8)
    image = torch.ones(1, *size)
    checked = 0
    for seed in range(25):
        transform = simulation(seed, volume, edge_blur=(0.0, sigma))
        mask = transform(image, organ, image, spacing)[2]
        (tumor,) = transform.parameters
        assert ndimage.label(mask.numpy() > 0)[1] == 1
        if not any(mask.select(axis, end).any() for axis in range(3) for end in (0, -1)):
            checked += 1
            # a tenth may be cut by the organ, and bodies of few voxels are rounded
            assert mask.sum().item() * math.prod(spacing) == pytest.approx(tumor.volume_mm3, rel=0.15)
    assert checked > 15


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 5.0)], ids=["fine", "thick"])
def test_small_tumors_are_not_blurred_away(spacing):
    """By up to 3 mm, however small they were: some had an eighth of their volume left above one half, or nothing."""
    image = torch.ones(1, 56, 56, 56)
    organ = image.to(torch.uint8)
    shares = []
    for seed in range(40):
        transform = simulation(seed, (300.0, 600.0), edge_blur=(0.0, 3.0))
        mask = transform(image, organ, image, spacing)[2]
        (tumor,) = transform.parameters
        radius = (3 * tumor.volume_mm3 / (4 * math.pi)) ** (1 / 3)
        assert 0 <= tumor.edge_blur <= 0.2 * radius + 1e-9
        if not any(mask.select(axis, end).any() for axis in range(3) for end in (0, -1)):
            shares.append((mask > 0.5).sum().item() * math.prod(spacing) / tumor.volume_mm3)
    assert len(shares) > 15 and min(shares) > 0.7 and 0.8 < np.median(shares) < 1.05


def test_parameters_are_distributed_as_they_are_said_to_be(scans):
    """100 tumors of less than a voxel: volumes are log-uniform, the others uniform."""
    drawn = [simulate(scans, seed, volume=(0.01, 1.0), edge_blur=(0.0, 0.02))[1][0] for seed in range(100)]
    for values, low, high in (
        ([math.log(tumor.volume_mm3) for tumor in drawn], math.log(0.01), 0),
        ([tumor.intensity_ratio[0] for tumor in drawn], 1, 3),
        ([tumor.alpha for tumor in drawn], 0.2, 0.8),
        ([tumor.blur for tumor in drawn], 0, 2),
        ([tumor.edge_blur for tumor in drawn], 0, 0.02),
    ):
        counts = np.histogram(values, bins=4, range=(low, high))[0]
        assert counts.sum() == 100 and counts.min() >= 12


# ---- chance, and what holds for every input ------------------------------------------------------


@every_target
def test_without_probability_or_without_an_organ_there_is_no_tumor(scans, target):
    image, organ, donor = scans
    nowhere = torch.zeros_like(organ)
    for layers, parameters in (
        simulate(scans, prob=0.0, target=target),
        simulate((image, nowhere, donor), target=target),
    ):
        assert parameters == []
        assert torch.equal(layers["image"], image[0]) and torch.equal(layers["organ"], image[0])
        assert not layers["mask"].any() and not layers["tumor"].any()
        torch.testing.assert_close(composed(layers), layers["image"])


def test_tumors_come_with_their_probability(scans):
    transform = simulation(0, volume=(5.0, 6.0), prob=0.7)
    counts = []
    for _ in range(100):
        transform(*scans, SPACING)
        counts.append(len(transform.parameters))
    assert 55 <= sum(counts) <= 85


def test_the_same_seed_gives_the_same_tumors_and_each_call_others(scans):
    first, second = simulation(5), simulation(5)
    drawn = [first(*scans, SPACING) for _ in range(3)]
    assert all(torch.equal(layers, second(*scans, SPACING)) for layers in drawn)
    assert first.parameters == second.parameters
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_the_input_stays_as_it_was(scans):
    copies = [scan.clone() for scan in scans]
    layers = simulation(0)(*scans, SPACING)
    layers += 1
    assert all(torch.equal(scan, copy) for scan, copy in zip(scans, copies, strict=True))


def make_batch(scans, seeds):
    tensors = dict(zip(("image", "organ", "donor"), scans, strict=True))
    batch = {
        name: torch.stack([tensor.roll(index, 1) for index in range(len(seeds))]) for name, tensor in tensors.items()
    }
    return {**batch, "seed": torch.tensor(seeds), "spacing": torch.tensor([SPACING] * len(seeds))}


@every_target
def test_a_batch_is_made_as_its_patches_are_alone(scans, target):
    options = {"target": target, "edge_blur": (0.0, 1.0), "num_tumors": (1, 2), "prob": 0.8}
    batch = make_batch(scans, [7, 2**31 - 1, 7, 0])
    copy = {name: value.clone() for name, value in batch.items()}
    out = simulation(99, **options).make_batch(batch)
    assert out.shape == (4, len(LAYERS), *SIZE)
    assert all(torch.equal(value, copy[name]) for name, value in batch.items())
    for index, seed in enumerate(batch["seed"].tolist()):
        images = (batch[name][index] for name in ("image", "organ", "donor"))
        assert torch.equal(out[index], simulation(seed, **options)(*images, SPACING))


def test_a_patch_of_a_batch_does_not_depend_on_the_others(scans):
    transform = simulation(1)
    batch = make_batch(scans, [3, 4, 5])
    out = transform.make_batch(batch)
    changed = {**batch, "image": batch["image"].clone(), "seed": torch.tensor([8, 4, 9])}
    changed["image"][[0, 2]] *= 5
    assert torch.equal(transform.make_batch(changed)[1], out[1])
    alone = {name: value[1:2] for name, value in batch.items()}
    assert torch.equal(transform.make_batch(alone)[0], out[1])


def test_patches_of_other_precision_are_taken(scans):
    image, organ, donor = scans
    layers = simulation(0)(image.half(), organ.bool(), donor.half(), SPACING)
    assert layers.dtype == torch.float32
    assert torch.equal(layers[0], image[0].half().float())


@pytest.mark.gpu
@every_target
@pytest.mark.parametrize("options", KINDS[:2], ids=["one", "soft edge"])
def test_a_gpu_simulates_the_same_tumors_where_the_scans_are(scans, target, options):
    """A voxel on the surface may differ, so that a second tumor would find other places free."""
    batch = make_batch(scans, [0, 1, 2])
    on_gpu = {name: value.cuda() if name in ("image", "organ", "donor") else value for name, value in batch.items()}
    drawn, transform = simulation(0, target=target, **options), simulation(0, target=target, **options)
    out, expected = drawn.make_batch(on_gpu), transform.make_batch(batch)
    assert out.is_cuda
    for found, wanted in zip(drawn.parameters, transform.parameters, strict=True):
        assert found == wanted
    differing = (out.cpu() - expected).abs().amax(1) > 1e-3
    assert differing.sum() <= 0.005 * (expected[:, 2] > 0).sum()  # voxels that lie on the surface
    torch.testing.assert_close(compose_layers(*out[:, :4].unbind(1)), out[:, 4], atol=1e-5, rtol=0)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"intensity_ratio": (1, 3)}, ValueError, r"intensity_ratio must be a list, each entry a list.* got \(1, 3\)"),
        ({"intensity_ratio": "2"}, TypeError, "intensity_ratio must be a list, .* or null .* got '2'"),
        ({"alpha": (0.0, 0.5)}, ValueError, r"alpha must be above 0 and at most 1, got \[0.0, 0.5\]"),
        ({"alpha": (0.5, 1.5)}, ValueError, r"alpha must be above 0 and at most 1, got \[0.5, 1.5\]"),
        ({"alpha": (0.5, 0.4)}, ValueError, "alpha must be two numbers that do not decrease, got"),
        ({"blur": (-1, 0)}, ValueError, r"blur must be a list, each entry a number from 0, got \(-1, 0\)"),
        ({"edge_blur": (2, 1)}, ValueError, r"edge_blur must be two numbers .* got \[2, 1\]"),
        ({"edge_blur": (0, math.inf)}, ValueError, r"edge_blur must be .* a number from 0, got \(0, inf\)"),
        (
            {"intensity_ratio": [(1, 2), (3,)]},
            TypeError,
            r"intensity_ratio must be a list, .* got \[\(1, 2\), \(3,\)\]",
        ),
        ({"intensity_ratio": [[(1, 2)], []]}, ValueError, "intensity_ratio must have a range or be None, got none"),
        (
            {"intensity_ratio": [[(1, 2)], [(1, 2), (2, 1)]]},
            TypeError,
            r"intensity_ratio must be a list, .* got \[\[\(1, 2\)\], \[\(1, 2\), \(2, 1\)\]\]",
        ),
        ({"intensity_ratio": []}, ValueError, "intensity_ratio must have a range or be None, got none"),
        ({"num_tumors": (1, 1.5)}, ValueError, r"num_tumors must be .* a whole number from 0, got \(1, 1.5\)"),
        ({"num_tumors": (2, 1)}, ValueError, r"num_tumors must be two numbers .* got \[2, 1\]"),
        ({"elastic": -1.0}, ValueError, "elastic must be a number from 0, got -1.0"),
        ({"elastic": math.nan}, ValueError, "elastic must be a number from 0, got nan"),
        ({"target": "mixed"}, ValueError, "target must be one of texture, blended, got 'mixed'"),
    ],
)
def test_options_out_of_range_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        RandTumorLayers(**options)


def test_scans_of_different_shapes_are_refused(scans):
    image, organ, donor = scans
    for volumes in ((image, organ[:, 1:], donor), (image, organ, donor[:, 1:]), (image[0], organ[0], donor[0])):
        with pytest.raises(ValueError, match=r"img, organ and donor must be of one shape \(C, H, W, D\), .*, got \["):
            simulation()(*volumes)
    two = [torch.cat((scan, scan)) for scan in scans]
    with pytest.raises(ValueError, match=r"organ of one channel, got \[\(2, "):
        simulation()(*two)


# ---- several channels ----------------------------------------------------------------------------


@pytest.fixture
def two_channels(scans):
    """Return scans of two channels, the second three times as bright, and one organ."""
    image, organ, donor = scans
    return torch.cat((image, 3 * image.flip(1))), organ, torch.cat((donor, donor.flip(2)))


@every_target
@every_kind
def test_channels_have_one_mask_and_one_opacity_that_compose_each_of_them(two_channels, target, options):
    for seed in range(5):
        transform = simulation(seed, target=target, **options)
        layers = split_layers(transform(*two_channels, SPACING), dim=0)
        assert transform.parameters
        assert [len(layer) for layer in layers] == [2, 2, 1, 1, 2]
        for organ, tumor, image, before in zip(layers.organ, layers.tumor, layers.image, two_channels[0], strict=True):
            composed = compose_layers(organ, tumor, layers.mask[0], layers.alpha[0])
            torch.testing.assert_close(composed, image, atol=1e-6, rtol=0)
            assert torch.equal(organ, before)
            assert torch.equal(image != organ, layers.mask[0] > 0)


@every_kind
def test_the_first_channel_of_several_has_the_bodies_that_it_has_alone(two_channels, options):
    """Bodies, places, opacities and blurs are drawn before what each channel draws on its own."""
    image, organ, donor = two_channels
    options = {**options, "num_tumors": (1, 1), "intensity_ratio": None}
    both = split_layers(simulation(3, **options)(image, organ, donor, SPACING), dim=0)
    for channel in range(2):
        own = simulation(3, **options)(image[channel, None], organ, donor[channel, None], SPACING)
        alone = split_layers(own, dim=0)
        for layer, same in zip(both, alone, strict=True):
            torch.testing.assert_close(layer[channel % len(layer), None], same, atol=1e-5, rtol=1e-5)


def test_the_texture_of_all_channels_comes_from_the_same_place(two_channels):
    image, organ, donor = two_channels
    alike = (image, organ, torch.cat((donor[:1], 2 * donor[:1])))
    layers = split_layers(simulation(1, intensity_ratio=None, elastic=8.0)(*alike, SPACING), dim=0)
    assert layers.mask.any()
    torch.testing.assert_close(layers.tumor[1], 2 * layers.tumor[0])


@pytest.mark.parametrize(
    "intensity_ratio", [[(0.5, 0.7), (2.0, 2.5)], [[(0.5, 0.7)], [(2.0, 2.5), (3.0, 3.5)]], [[(0.5, 0.7)]]]
)
def test_every_channel_has_a_ratio_of_its_own_from_its_ranges(two_channels, intensity_ratio):
    image, organ, _ = two_channels
    means = [float(channel[organ[0] > 0].mean()) for channel in image]
    drawn = []
    for seed in range(12):
        transform = simulation(seed, intensity_ratio=intensity_ratio)
        layers = split_layers(transform(*two_channels, SPACING), dim=0)
        (tumor,) = transform.parameters
        drawn.append(tumor.intensity_ratio)
        for channel, mean, ratio in zip(layers.tumor, means, tumor.intensity_ratio, strict=True):
            assert float(channel[layers.mask[0] > 0].mean()) / mean == pytest.approx(ratio, rel=1e-4)
    by_channel = intensity_ratio if isinstance(intensity_ratio[0], list) else [intensity_ratio]
    for ratios, ranges in zip(zip(*drawn, strict=True), by_channel * (2 // len(by_channel)), strict=True):
        inside = [[low <= ratio <= high for low, high in ranges] for ratio in ratios]
        assert all(map(any, inside)) and all(map(any, zip(*inside, strict=True)))
    assert all(first != second for first, second in drawn)


def test_ratios_of_other_channels_are_refused(two_channels):
    with pytest.raises(ValueError, match="ranges for all channels, or for each of 2, got them for 3"):
        simulation(intensity_ratio=[[(1, 2)]] * 3)(*two_channels, SPACING)


def test_other_numbers_of_layers_are_refused():
    for count in (2, 4, 6, 7):
        with pytest.raises(ValueError, match=rf"layers must have 3 \* C \+ 2 channels .* got {count}"):
            split_layers(torch.zeros(1, count, 2, 2, 2))
