"""Laws of the pretext tasks: what a network is shown and asked, and that each image has its own chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import RandCoarseShuffle

from common.layers import (
    LAYERS,
    JigsawPuzzle,
    JointSegmentation,
    LayerDecomposition,
    LayerDecompositionLoss,
    LayerUNet,
    RandStarShape,
    RandTumorLayers,
    RelativeLocation,
    Restoration,
    RotationPrediction,
    split_layers,
)
from common.layers.pretext import _RandCoarseShuffle
from common.training import PrepareTask

FEATURES = (4, 8)


def unet(out_channels=1):
    return LayerUNet(out_channels=out_channels, features=FEATURES)


def simulation(**options):
    return RandTumorLayers(RandStarShape((50, 200)), intensity_ratio=None, prob=1.0, **options)


def decomposition(**options):
    return LayerDecomposition(unet(3), simulation(), LayerDecompositionLoss(), **options)


def asks(kind, **options):
    return kind(unet(), torch.nn.CrossEntropyLoss(), **options)


TASKS = {
    "layers": decomposition,
    "restoration": lambda: Restoration(unet(), torch.nn.L1Loss()),
    "rotation": lambda: asks(RotationPrediction, axes=[2]),
    "location": lambda: asks(RelativeLocation, grid=(3, 3, 1), gap=1),
    "jigsaw": lambda: asks(JigsawPuzzle, grid=(2, 2, 1), num_permutations=6, gap=1),
}
every_task = pytest.mark.parametrize("task", TASKS)


def stay(tensor):
    return tensor


@pytest.fixture
def batch():
    """Return a minibatch of four patches with donors, as `PatchLoader` makes it."""
    scans = torch.rand(2, 4, 1, 12, 12, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    batch = {"image": scans[0], "donor": scans[1], "organ": torch.ones_like(scans[0]), "case": [*"abcd"]}
    return {**batch, "seed": torch.tensor([3, 4, 5, 6]), "spacing": torch.ones(4, 3)}


@pytest.fixture
def places():
    """Return a function that makes a minibatch of one image, whose channels are the coordinates of its voxels."""

    def make(count):
        image = torch.stack(torch.meshgrid(*(torch.arange(12.0) for _ in range(3)), indexing="ij"))
        return {"image": image.expand(count, -1, -1, -1, -1), "seed": torch.arange(count)}

    return make


# ---- what holds for every task ------------------------------------------------------------------


@every_task
def test_an_image_depends_on_its_own_seed_alone(task, batch):
    task = TASKS[task]()
    before = {key: value.clone() for key, value in batch.items() if isinstance(value, torch.Tensor)}
    made = task.make_batch(batch, stay)
    assert all(torch.equal(batch[key], value) for key, value in before.items())
    task.make_batch({**batch, "seed": batch["seed"] + 9}, stay)
    for index in range(4):
        alone = task.make_batch({key: value[index : index + 1] for key, value in batch.items()}, stay)
        for several, one in zip(made, alone, strict=True):
            torch.testing.assert_close(several[index : index + 1], one, rtol=0, atol=0)
    others = task.make_batch({**batch, "seed": batch["seed"] + 10}, stay)
    assert not torch.equal(made[0], others[0])


@every_task
def test_an_engine_has_a_minibatch_that_network_and_loss_of_the_task_take(task, batch):
    task = TASKS[task]()
    image, target = PrepareTask(task)(batch, "cpu")
    loss = task.loss(task.network(image), target)
    assert loss.ndim == 0 and loss.isfinite()
    loss.backward()
    assert task.network.encoder[0][0].weight.grad.abs().sum() > 0


@every_task
def test_a_minibatch_is_made_of_what_was_moved(task, batch):
    task = TASKS[task]()
    moved = {key: 2 * batch[key] for key in ("image", "donor", "organ")}
    for made, expected in zip(
        task.make_batch(batch, lambda tensor: 2 * tensor), task.make_batch({**batch, **moved}, stay), strict=True
    ):
        assert torch.equal(made, expected)


@every_task
def test_weights_are_chosen_by_the_loss_unless_another_one_is_given(task):
    made = TASKS[task]()
    assert made.selection_loss is made.loss and made.handlers == []


def test_losses_and_handlers_of_a_task_are_those_that_it_was_given():
    selection, handler = LayerDecompositionLoss(mask_weight=0), object()
    task = decomposition(selection_loss=selection, handlers=[handler])
    assert task.selection_loss is selection is not task.loss and task.handlers == [handler]


# ---- layer decomposition, and the segmentation beside it -----------------------------------------


def test_the_input_is_the_scan_with_tumors_and_the_target_its_layers(batch):
    image, target = decomposition().make_batch(batch, stay)
    assert torch.equal(target, simulation().make_batch(batch))
    assert torch.equal(image, target[:, 4:]) and image.shape == (4, 1, 12, 12, 6)
    image.zero_()
    assert target[:, 4].any()  # they share no memory


def test_real_scans_follow_as_their_own_target(batch):
    scans = torch.rand(3, 1, 12, 12, 6)
    image, target = decomposition().make_batch({"normal": batch, "real": {"image": scans}}, stay)
    assert torch.equal(target[:4], decomposition().make_batch(batch, stay)[1])
    real = dict(zip(LAYERS, target[4:].unbind(1), strict=True))
    assert torch.equal(real["image"], scans[:, 0]) and torch.equal(image[4:], scans)
    assert (real["mask"] == -1).all() and (real["alpha"] == 1).all()
    assert not real["organ"].any() and not real["tumor"].any()


def test_masks_of_simulations_are_labels_beside_those_of_labeled_scans(batch):
    labeled = {"image": torch.rand(1, 1, 12, 12, 6), "label": torch.rand(1, 1, 12, 12, 6).gt(0.9).to(torch.uint8)}
    soft = simulation(edge_blur=(0.2, 0.4))
    task = JointSegmentation(soft, {0: "background", 1: "tumor"})
    image, label = PrepareTask(task)({"labeled": labeled, "normal": batch}, "cpu")
    layers = soft.make_batch(batch)
    assert torch.equal(image, torch.cat((labeled["image"], layers[:, 4:])))
    assert label.dtype == torch.uint8
    assert torch.equal(label, torch.cat((labeled["label"], (layers[:, 2:3] > 0.5).to(torch.uint8))))
    assert 0 < label[1:].sum() < (layers[:, 2] > 0).sum()


def test_simulations_beside_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"labels must be background and a tumor beside simulations, got .*liver"):
        JointSegmentation(simulation(), {0: "background", 1: "liver", 2: "tumor"})


@pytest.mark.gpu
@every_task
def test_a_task_is_made_on_the_device(task, batch):
    image, target = PrepareTask(TASKS[task]())(batch, "cuda")
    assert image.is_cuda and target.is_cuda


# ---- the others ----------------------------------------------------------------------------------


def test_a_turn_is_undone_by_the_one_that_its_class_names(places):
    task = asks(RotationPrediction)
    assert task.num_classes == 10
    batch = places(40)
    turned, classes = task.make_batch(batch, stay)
    assert len(classes.unique()) > 6
    for image, chosen in zip(turned, classes.tolist(), strict=True):
        axis, count = task.turns[chosen]
        inverse = task.turns.index((axis, 4 - count)) if count else 0
        assert torch.equal(task.show(image, inverse, np.random.RandomState(0)), batch["image"][0])
        assert torch.equal(image[axis], batch["image"][0, axis]) or chosen == 0, "what lies along the axis stays there"


def test_patches_that_cannot_be_turned_are_refused(batch):
    with pytest.raises(ValueError, match=r"image must be square across axis 0, got \(12, 12, 6\)"):
        asks(RotationPrediction).make_batch(batch, stay)
    with pytest.raises(ValueError, match="axes must be some of"):
        asks(RotationPrediction, axes=[2, 2])


def test_the_second_cell_lies_where_the_class_says(places):
    task = asks(RelativeLocation, grid=(3, 3, 3), gap=1)
    assert task.num_classes == 26
    pairs, classes = task.make_batch(places(60), stay)
    assert pairs.shape == (60, 2, 3, 3, 3, 3)
    cells = [cell for cell in np.ndindex(3, 3, 3) if cell != (1, 1, 1)]
    for pair, chosen in zip(pairs, classes.tolist(), strict=True):
        middle, other = pair.mean((2, 3, 4)) // 4
        assert middle.tolist() == [1, 1, 1] and tuple(other.int().tolist()) == cells[chosen]


def test_cells_lie_anywhere_in_their_places(places):
    pairs, _ = asks(RelativeLocation, grid=(3, 3, 1), gap=2).make_batch(places(60), stay)
    assert pairs.shape == (60, 2, 3, 2, 2, 12)
    assert pairs[:, 0, 0].amin((1, 2, 3)).unique().tolist() == [4, 5, 6], "borders of neighbors must not match"
    assert pairs[:, 0, 2, 0, 0].unique(dim=0).tolist() == [list(range(12))], "no gap where nothing is cut"


def test_cells_in_the_order_of_their_class_are_the_scan_again(places):
    task = asks(JigsawPuzzle, grid=(2, 2, 2), num_permutations=20, gap=0)
    batch = places(30)
    shuffled, classes = task.make_batch(batch, stay)
    assert shuffled.shape == (30, 8, 3, 6, 6, 6) and task.num_classes == 20
    expected = task.cells.cut(batch["image"][0], np.random.RandomState(0))
    for cells, chosen in zip(shuffled, classes.tolist(), strict=True):
        assert torch.equal(cells[np.argsort(task.permutations[chosen]).tolist()], expected)


@pytest.mark.parametrize(("grid", "count"), [((2, 2, 1), 24), ((2, 2, 2), 30), ((3, 3, 3), 10)])
def test_orders_differ_as_much_as_they_can(grid, count):
    permutations = asks(JigsawPuzzle, grid=grid, num_permutations=count).permutations
    assert len(np.unique(permutations, axis=0)) == count
    assert (np.sort(permutations, axis=1) == np.arange(permutations.shape[1])).all()
    distances = (permutations[:, None] != permutations).sum(-1)[~np.eye(count, dtype=bool)]
    assert distances.min() >= (2 if count == 24 else permutations.shape[1] - 3)


def test_a_distorted_scan_is_to_be_restored(batch):
    distorted, target = TASKS["restoration"]().make_batch(batch, stay)
    assert distorted.shape == batch["image"].shape and target is batch["image"]
    assert all(not torch.equal(*pair) for pair in zip(distorted, target, strict=True))


@pytest.mark.parametrize("task", ["rotation", "location", "jigsaw"])
def test_the_network_tells_as_many_classes_as_there_are_and_its_encoder_is_that_of_the_u_net(task, batch):
    made = TASKS[task]()
    image, _ = made.make_batch(batch, stay)
    assert made.network(image).shape == (4, made.num_classes)
    assert {*unet().encoder.state_dict()} == {*made.network.encoder.state_dict()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: asks(RelativeLocation, grid=(3, 2, 3)), "grid must be odd along each axis"),
        (lambda: asks(RelativeLocation, grid=(1, 1, 1)), "grid must be three counts with two cells or more"),
        (lambda: asks(JigsawPuzzle, grid=(2, 1, 1), num_permutations=3), "num_permutations must be from 2 to 2, got 3"),
        (lambda: asks(JigsawPuzzle, grid=(2, 2), gap=1), "grid must be three counts"),
        (
            lambda: asks(JigsawPuzzle, gap=9).make_batch({"image": torch.zeros(1, 1, 8, 8, 8), "seed": [0]}, stay),
            r"image must hold \(2, 2, 2\)",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- several channels ----------------------------------------------------------------------------


def two_channels(batch, factor=2.0):
    """Return a minibatch whose second channel is the first one, but for its unit."""
    return {**batch, **{key: torch.cat((batch[key], factor * batch[key]), dim=1) for key in ("image", "donor")}}


@every_task
def test_channels_of_a_place_are_treated_alike(task, batch):
    image, target = TASKS[task]().make_batch(batch, stay)
    both, same = TASKS[task]().make_batch(two_channels(batch), stay)
    axis = image.ndim - 4
    first, second = both.chunk(2, dim=axis)
    if task == "restoration":  # noise of its own is filled into the same boxes of each channel
        shown = first == image
        assert 0.1 < shown.float().mean() < 1
        torch.testing.assert_close(second[shown], 2 * image[shown])
        assert torch.equal(same, two_channels(batch)["image"])
    elif task == "layers":
        layers, alone = split_layers(same), split_layers(target)
        torch.testing.assert_close(first, image)
        torch.testing.assert_close(second, 2 * first)
        assert torch.equal(layers.mask, alone.mask) and torch.equal(layers.alpha, alone.alpha)
    else:
        assert torch.equal(same, target)
        assert torch.equal(first, image) and torch.equal(second, 2 * image)


def test_shuffled_voxels_keep_their_channels_together():
    shuffle = _RandCoarseShuffle(holes=5, spatial_size=(4, 4, 2), prob=1.0).set_random_state(0)
    image = torch.arange(12.0 * 12 * 6).view(1, 12, 12, 6)
    shuffled = torch.as_tensor(shuffle(torch.cat((image, -image))))
    assert torch.equal(shuffled[0], -shuffled[1]) and not torch.equal(shuffled[:1], image)
    plain = RandCoarseShuffle(holes=5, spatial_size=(4, 4, 2), prob=1.0).set_random_state(0)
    assert torch.equal(shuffled[:1], torch.as_tensor(plain(image.clone())))


def test_real_scans_of_several_channels_follow_as_their_own_target(batch):
    both = two_channels(batch)
    task = LayerDecomposition(LayerUNet(2, features=FEATURES), simulation(), LayerDecompositionLoss())
    image, target = task.make_batch({"normal": both, "real": both}, stay)
    real = split_layers(target[4:])
    assert torch.equal(real.image, both["image"]) and torch.equal(image[4:], both["image"])
    assert (real.mask == -1).all() and (real.alpha == 1).all() and not real.organ.any() and not real.tumor.any()
    assert task.loss(task.network(image), target).isfinite()


def test_masks_of_simulations_of_several_channels_are_labels(batch):
    both = two_channels(batch)
    labeled = {"image": both["image"], "label": torch.zeros(4, 1, 12, 12, 6, dtype=torch.uint8)}
    task = JointSegmentation(simulation(), {0: "background", 1: "tumor"})
    image, label = task.make_batch({"labeled": labeled, "normal": both}, stay)
    assert image.shape == (8, 2, 12, 12, 6) and label.shape == (8, 1, 12, 12, 6)
    assert label[4:].any() and torch.equal(image[:4], both["image"])
