"""A training small enough to be run many times."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Events
from ignite.metrics import Loss
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler, from_engine
from monai.losses import DiceCELoss
from monai.transforms import Compose

from common.fnet import FNet, PatchBatchSampler, PatchDataset, PatchSegmentation
from common.training import (
    MeanLoss,
    MetricsLogger,
    MovingAveragePlateau,
    PrepareTask,
    ResumableCheckpoint,
    SaveBest,
    ScheduleLR,
    StopOnNonFiniteLoss,
    StopOnPlateau,
)


def make_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(1, 12, 12, 12, dtype=torch.uint8)
    label[0, 3:8, 4:9, 4:8] = 1
    return [{"image": torch.randn(1, 12, 12, 12, generator=generator) + label, "label": label} for _ in range(2)]


@pytest.fixture
def make_training(tmp_path):
    """Return a function that puts a training of two levels together, with the handlers in the order of the configs."""

    def _make(folder="run", max_epochs=4, seed=0, settings=None, resume=True, features=(2, 2), stop_after=None):
        save_dir = tmp_path / folder
        torch.manual_seed(seed)
        network = FNet(1, 2, features, 3, gain=1.0)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        loss = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)
        scheduler = MovingAveragePlateau(optimizer, factor=0.5, patience=0, threshold=0.05)
        loaders = []
        for part in range(2):
            dataset = PatchDataset(make_cases(part), Compose([]), network.geometry, 4)
            sampler = PatchBatchSampler(dataset, 2, 3, 0.3, fixed=part == 1)
            loaders.append(DataLoader(dataset, batch_sampler=sampler))
        evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=loaders[1],
            network=network,
            prepare_batch=PrepareTask(PatchSegmentation()),
            key_val_metric={"val_loss": Loss(loss, output_transform=from_engine(["pred", "label"]))},
            metric_cmp_fn=lambda current, best: current < best,
            val_handlers=[SaveBest(save_dir / "model.pt", network)],
            decollate=False,
        )
        checkpoint = ResumableCheckpoint(
            save_dir / "training.ckpt",
            {"network": network, "optimizer": optimizer},
            evaluator,
            loaders[0].batch_sampler,
            {"learning_rate": 1e-2} if settings is None else settings,
            resume=resume,
        )
        record = MetricsLogger(save_dir, optimizer, [evaluator])
        stop = StopOnPlateau(evaluator, optimizer, patience=100)
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=max_epochs,
            train_data_loader=loaders[0],
            network=network,
            optimizer=optimizer,
            loss_function=loss,
            prepare_batch=PrepareTask(PatchSegmentation()),
            key_train_metric={"train_loss": MeanLoss()},
            train_handlers=[
                StopOnNonFiniteLoss(),
                ValidationHandler(1, evaluator),
                ScheduleLR(scheduler),
                stop,
                record,
                checkpoint,
            ],
            decollate=False,
        )
        if stop_after is not None:
            event, count = stop_after

            @trainer.on(event(once=count))
            def _interrupt(engine):
                raise InterruptedError("power failure")

        return SimpleNamespace(
            trainer=trainer,
            network=network,
            optimizer=optimizer,
            evaluator=evaluator,
            scheduler=scheduler,
            stop=stop,
            record=record,
            checkpoint=checkpoint,
            save_dir=save_dir,
        )

    return _make


@pytest.fixture
def interrupted(make_training):
    """Return a training that was interrupted after its second epoch."""
    training = make_training(stop_after=(Events.EPOCH_COMPLETED, 2))
    with pytest.raises(InterruptedError):
        training.trainer.run()
    return training


@pytest.fixture
def rows_of():
    """Return a function that gives the recorded numbers of a training, but for the seconds."""
    return lambda training: [{**row, "seconds": None} for row in training.record.rows]
