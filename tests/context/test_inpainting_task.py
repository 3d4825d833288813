"""Laws of how images reach a network that learns to inpaint them."""

from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer

from common.context import ContextUNet, InpaintingLoss, InpaintingTask, RandContextPrediction, RandContextRestoration
from common.training import PrepareTask


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return {"image": torch.randn(3, 2, 32, 32), "seed": torch.tensor([5, 2**62, 5])}


@pytest.mark.parametrize("corruption", [RandContextPrediction, RandContextRestoration])
def test_the_image_is_the_target_and_the_input_is_corrupted_by_its_seed(batch, corruption):
    image, target = PrepareTask(InpaintingTask(corruption(4)))(batch, "cpu", False)
    assert target is batch["image"]
    for index, seed in enumerate(batch["seed"].tolist()):
        alone = corruption(4).set_random_state(seed)(target[index])
        assert torch.equal(image[index], alone) and not torch.equal(alone, target[index])


def test_the_same_batch_is_corrupted_alike_whatever_came_before(batch):
    prepare = PrepareTask(InpaintingTask(RandContextRestoration(4, "uniform")))
    first, _ = prepare(batch)
    prepare({"image": batch["image"], "seed": batch["seed"] + 1})
    assert torch.equal(prepare(batch)[0], first)


def test_both_images_are_moved(batch):
    assert {
        tensor.dtype for tensor in PrepareTask(InpaintingTask(RandContextPrediction(4)))(batch, dtype=torch.float64)
    } == {torch.float64}


def test_a_trainer_learns_from_corrupted_images():
    torch.manual_seed(0)
    items = [{"image": torch.randn(1, 16, 16), "seed": seed} for seed in range(4)]
    network = ContextUNet(1, 1, (4, 8), 2, head_kernel_size=3)
    losses = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=8,
        train_data_loader=DataLoader(Dataset(items), batch_size=2),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.99, 0.995)),
        loss_function=InpaintingLoss(),
        prepare_batch=PrepareTask(InpaintingTask(RandContextRestoration(2))),
    )
    trainer.add_event_handler("EPOCH_COMPLETED", lambda engine: losses.append(engine.state.output[0]["loss"]))
    trainer.run()
    assert losses[-1] < losses[0]
