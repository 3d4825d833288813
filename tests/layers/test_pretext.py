import numpy as np
import pytest
import torch

from common.layers import RandDistortion, RandJigsaw, RandRelativeLocation, RandRotationTask
from common.training import PrepareTask

TASKS = {
    "rotation": RandRotationTask([2]),
    "location": RandRelativeLocation((3, 3, 1), gap=1),
    "jigsaw": RandJigsaw((2, 2, 1), num_permutations=6, gap=1),
    "distortion": RandDistortion(paint_size=(3, 3, 2), shuffle_size=(2, 2, 2), num_shuffles=4),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@pytest.fixture
def images():
    return torch.rand(4, 1, 12, 12, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def places():
    """An image whose three channels are the coordinates of each voxel."""
    return torch.stack(torch.meshgrid(*(torch.arange(12.0) for _ in range(3)), indexing="ij"))[None]


@every_task
def test_an_image_depends_on_its_own_seed_alone(task, images):
    before = images.clone()
    batch = task.make_batch(images, [3, 4, 5, 6])
    assert torch.equal(images, before)
    for index, seed in enumerate((3, 4, 5, 6)):
        alone = task.make_batch(images[index : index + 1], torch.tensor([seed]))
        for several, one in zip(batch, alone, strict=True):
            torch.testing.assert_close(several[index : index + 1], one, rtol=0, atol=0)
    others = task.make_batch(images, [13, 14, 15, 16])
    assert not torch.equal(batch[0], others[0])


@every_task
def test_the_engine_hands_on_image_and_seed(task, images):
    batch = {"image": images, "seed": torch.tensor([1, 2, 3, 4]), "case": [""]}
    for made, expected in zip(PrepareTask(task)(batch, "cpu"), task.make_batch(images, [1, 2, 3, 4]), strict=True):
        assert torch.equal(made, expected)


def test_a_turn_is_undone_by_the_one_that_its_class_names(places):
    task = RandRotationTask()
    assert task.num_classes == 10
    cubes = places.expand(40, -1, -1, -1, -1)
    turned, classes = task.make_batch(cubes, range(40))
    assert len(classes.unique()) > 6
    for image, chosen in zip(turned, classes.tolist(), strict=True):
        axis, count = task.turns[chosen]
        inverse = task.turns.index((axis, 4 - count)) if count else 0
        assert torch.equal(task.turn(image, inverse), places[0])
        assert torch.equal(image[axis], places[0, axis]) or chosen == 0, "what lies along the axis stays there"


def test_patches_that_cannot_be_turned_are_refused(images):
    with pytest.raises(ValueError, match=r"image must be square across axis 0, got \(12, 12, 6\)"):
        RandRotationTask().make_batch(images, range(4))
    with pytest.raises(ValueError, match="axes must be some of"):
        RandRotationTask([2, 2])


def test_the_second_cell_lies_where_the_class_says(places):
    task = RandRelativeLocation((3, 3, 3), gap=1)
    assert task.num_classes == 26
    pairs, classes = task.make_batch(places.expand(60, -1, -1, -1, -1), range(60))
    assert pairs.shape == (60, 2, 3, 3, 3, 3)
    cells = [cell for cell in np.ndindex(3, 3, 3) if cell != (1, 1, 1)]
    for pair, chosen in zip(pairs, classes.tolist(), strict=True):
        middle, other = pair.mean((2, 3, 4)) // 4
        assert middle.tolist() == [1, 1, 1] and tuple(other.int().tolist()) == cells[chosen]


def test_cells_lie_anywhere_in_their_places(places):
    pairs, _ = RandRelativeLocation((3, 3, 1), gap=2).make_batch(places.expand(60, -1, -1, -1, -1), range(60))
    assert pairs.shape == (60, 2, 3, 2, 2, 12)
    assert pairs[:, 0, 0].amin((1, 2, 3)).unique().tolist() == [4, 5, 6], "borders of neighbors must not match"
    assert pairs[:, 0, 2, 0, 0].unique(dim=0).tolist() == [list(range(12))], "no gap where nothing is cut"


def test_cells_in_the_order_of_their_class_are_the_scan_again(places):
    task = RandJigsaw((2, 2, 2), num_permutations=20, gap=0)
    assert (task.num_cells, task.num_classes) == (8, 20)
    shuffled, classes = task.make_batch(places.expand(30, -1, -1, -1, -1), range(30))
    expected = RandJigsaw((2, 2, 2), num_permutations=2, gap=0).cells.cut(places[0], np.random.RandomState(0))
    for cells, chosen in zip(shuffled, classes.tolist(), strict=True):
        assert torch.equal(cells[np.argsort(task.permutations[chosen]).tolist()], expected)


@pytest.mark.parametrize(("grid", "count"), [((2, 2, 1), 24), ((2, 2, 2), 30), ((3, 3, 3), 10)])
def test_orders_differ_as_much_as_they_can(grid, count):
    permutations = RandJigsaw(grid, count).permutations
    assert len(np.unique(permutations, axis=0)) == count
    assert (np.sort(permutations, axis=1) == np.arange(permutations.shape[1])).all()
    distances = (permutations[:, None] != permutations).sum(-1)[~np.eye(count, dtype=bool)]
    assert distances.min() >= (2 if count == 24 else permutations.shape[1] - 3)


def test_a_distorted_scan_is_to_be_restored(images):
    distorted, target = TASKS["distortion"].make_batch(images, range(4))
    assert distorted.shape == images.shape and target is images
    assert all(not torch.equal(*pair) for pair in zip(distorted, images, strict=True))
    untouched = RandDistortion(intensity_prob=0, shuffle_prob=0, paint_prob=0)
    torch.testing.assert_close(untouched.make_batch(images, range(4))[0], images)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandRelativeLocation((3, 2, 3)), "grid must be odd along each axis"),
        (lambda: RandRelativeLocation((1, 1, 1)), "grid must be three counts with two cells or more"),
        (lambda: RandJigsaw((2, 1, 1), num_permutations=3), "num_permutations must be from 2 to 2, got 3"),
        (lambda: RandJigsaw((2, 2), gap=1), "grid must be three counts"),
        (
            lambda: RandJigsaw((2, 2, 2), gap=9).make_batch(torch.zeros(1, 1, 8, 8, 8), [0]),
            r"image must hold \(2, 2, 2\)",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
