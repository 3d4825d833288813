"""Laws of how a task reaches MONAI's engines."""

from __future__ import annotations

import torch
from torch import nn

from common.training import PrepareTask, PretextTask

BATCH = {"image": torch.ones(2, 1, 4), "label": torch.zeros(2, 1, 4)}


class Halves:
    """A task with further inputs."""

    def make_batch(self, batch, move):
        return move(batch["image"]), move(batch["label"]), (move(batch["image"]) / 2,)


def test_without_a_way_of_its_own_a_task_has_image_and_label():
    image, target = PrepareTask(PretextTask(nn.Identity(), nn.L1Loss()))(BATCH, "cpu", False)
    assert image is BATCH["image"] and target is BATCH["label"]


def test_further_inputs_are_arguments_of_the_network():
    image, target, others, named = PrepareTask(Halves())(BATCH)
    assert image is BATCH["image"] and target is BATCH["label"] and named == {}
    assert len(others) == 1 and torch.equal(others[0], BATCH["image"] / 2)


def test_a_task_says_how_its_tensors_are_moved():
    image, target, others, _ = PrepareTask(Halves())(BATCH, torch.device("cpu"), dtype=torch.float64)
    assert {tensor.dtype for tensor in (image, target, *others)} == {torch.float64}


def test_weights_are_chosen_by_the_loss_unless_another_one_is_given():
    loss, other = nn.L1Loss(), nn.MSELoss()
    assert PretextTask(nn.Identity(), loss).selection_loss is loss
    task = PretextTask(nn.Identity(), loss, other, handlers=(1, 2))
    assert task.selection_loss is other and task.loss is loss and task.handlers == [1, 2]
