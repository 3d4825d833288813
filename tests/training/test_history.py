"""Laws of the record of a training."""

from __future__ import annotations

import csv

import pytest
from ignite.engine import Events


def test_the_record_is_a_table_a_picture_and_a_tensorboard_file(make_training):
    training = make_training(max_epochs=2)
    training.trainer.run()
    with (training.save_dir / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "train_loss", "val_loss", "lr_0", "seconds"]
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert [float(row["train_loss"]) for row in rows] == [row["train_loss"] for row in training.record.rows]
    assert (training.save_dir / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((training.save_dir / "tensorboard").glob("events.out.tfevents.*"))) == 1


def test_the_train_loss_is_the_mean_over_the_iterations_of_an_epoch(make_training):
    training, losses = make_training(max_epochs=2), []
    training.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item())
    )
    training.trainer.run()
    means = [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    assert [row["train_loss"] for row in training.record.rows] == pytest.approx(means, rel=1e-6)


def test_validation_of_an_epoch_that_failed_is_not_written_into_the_one_before(make_training, rows_of):
    """When saving the third validation failed, its numbers stood in the row of the second epoch."""
    training = make_training()

    def fail(engine):
        if training.trainer.state.epoch == 3:
            raise OSError("disk full")

    training.evaluator.add_event_handler(Events.COMPLETED, fail)
    with pytest.raises(OSError, match="disk full"):
        training.trainer.run()
    whole = make_training("whole", max_epochs=2)
    whole.trainer.run()
    assert rows_of(training) == rows_of(whole)
