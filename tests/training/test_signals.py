"""Laws of a run that a signal stops."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from ignite.engine import Engine, Events

from common.cli import Interruption, forget_signals
from common.training import StopOnSignal


def make_engine(stop_at: int | None = None) -> tuple[Engine, list[int]]:
    """Return an engine that is sent a signal during an iteration, and the iterations that it has completed."""
    completed: list[int] = []

    def step(engine, batch):
        if engine.state.iteration == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        completed.append(engine.state.iteration)

    return Engine(step), completed


@pytest.fixture(autouse=True)
def handler():
    forget_signals()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    forget_signals()
    signal.signal(signal.SIGTERM, before)


def test_the_iteration_is_completed_and_none_follows():
    engine, completed = make_engine(stop_at=5)
    StopOnSignal("the same command goes on", is_training=True).attach(engine)
    with pytest.raises(
        Interruption, match="interrupted in epoch 2 of 3; the same command goes on after epoch 1"
    ) as info:
        engine.run([0, 1, 2], max_epochs=3)
    assert completed == [1, 2, 3, 4, 5] and info.value.status == 143
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_what_ends_an_epoch_is_done_before_the_run_stops():
    engine, _ = make_engine(stop_at=3)
    ended = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: ended.append(engine.state.epoch))
    StopOnSignal(is_training=True).attach(engine)
    with pytest.raises(Interruption):
        engine.run([0, 1, 2], max_epochs=3)
    assert ended == [1]


def test_a_signal_during_a_validation_stops_the_training():
    trainer, completed = make_engine()
    validator, validated = make_engine(stop_at=2)
    StopOnSignal(is_training=True).attach(trainer)
    StopOnSignal("the same command goes on from the last checkpoint").attach(validator)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: validator.run([0, 1, 2]))
    with pytest.raises(Interruption, match="interrupted after 2 of 3; the same command goes on from the last checkp"):
        trainer.run([0], max_epochs=2)
    assert completed == [1] and validated == [1, 2]


def test_a_run_after_a_stopped_one_is_not_stopped_by_the_old_signal():
    engine, _ = make_engine(stop_at=1)
    StopOnSignal().attach(engine)
    with pytest.raises(Interruption):
        engine.run([0, 1])
    again, completed = make_engine()
    StopOnSignal().attach(again)
    again.run([0, 1])
    assert completed == [1, 2] and signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_a_training_after_one_that_failed_notes_signals_and_gives_them_back():
    failing, _ = make_engine()
    StopOnSignal(is_training=True).attach(failing)
    failing.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.run([0])
    again, completed = make_engine()
    StopOnSignal(is_training=True).attach(again)
    again.run([0, 1])
    assert completed == [1, 2] and signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_in_a_worker_thread_a_run_works_and_sets_no_handler():
    engine, completed = make_engine()
    StopOnSignal(is_training=True).attach(engine)
    thread = threading.Thread(target=engine.run, args=([0, 1],))
    thread.start()
    thread.join()
    assert completed == [1, 2] and signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def _train(rank: int, folder: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    engine, completed = make_engine(stop_at=4 if rank == 1 else None)
    StopOnSignal(is_training=True).attach(engine)
    try:
        engine.run([0, 1, 2], max_epochs=3)
    except Interruption as error:
        torch.save((completed, error.status), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_processes_stop_at_the_same_iteration(tmp_path):
    torch.multiprocessing.spawn(_train, (str(tmp_path),), nprocs=2)
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == 2 * [([1, 2, 3, 4], 143)]
