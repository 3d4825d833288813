"""Laws of the case loop: what is wrong with a case is noted, the others are done, and what concerns the run ends it."""

from __future__ import annotations

import errno
import io
import logging
import sys

import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset, MetaTensor
from monai.handlers import MeanDice, from_engine
from monai.inferers import SimpleInferer
from monai.transforms import Lambda
from torch import nn

from common.cli import InputError, root_cause
from common.data import CaseLoader
from common.training import CaseEvaluator, SaveScores, SegmentationEvaluator, leave_processes

FAULTS = {  # by the moment: reading, the network, writing, and whatever comes after it
    "load": InputError("case_1.nii: must be sound, got a fault; copy the file again"),
    "infer": RuntimeError("shapes differ"),
    "write": PermissionError(errno.EACCES, "Permission denied", "out/case_1_seg.nii.gz"),
    "measure": ZeroDivisionError("division by zero"),
}
REASONS = {
    "load": ("refused", "case_1.nii: must be sound, got a fault; copy the file again"),
    "infer": ("failed", "RuntimeError: shapes differ"),
    "write": ("refused", "[Errno 13] Permission denied: 'out/case_1_seg.nii.gz'"),
    "measure": ("failed", "ZeroDivisionError: division by zero"),
}


class Load:
    """Reader of cases, one of which may raise an error."""

    def __init__(self, fault: Exception | None) -> None:
        self.fault = fault

    def __call__(self, case: dict) -> dict:
        if self.fault is not None and case["case_id"] == "case_1":
            raise self.fault
        meta = {"filename_or_obj": case["image"], "case_id": case["case_id"]}
        return {"image": MetaTensor(torch.full((1, 4, 4, 4), case["value"]), meta=meta)}


class Fault:
    """Step that raises an error in the second case, whose voxels are 1."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if self.error is not None and image.max() == 1:
            raise self.error
        return image


class Infer(SimpleInferer):
    def __init__(self, error: BaseException | None) -> None:
        super().__init__()
        self.fault = Fault(error)

    def __call__(self, inputs, network, *args, **kwargs):
        return network(self.fault(inputs))


class Write:
    def __init__(self, error: BaseException | None) -> None:
        self.fault = Fault(error)

    def __call__(self, data: dict) -> dict:
        self.fault(data["pred"])
        return data


@pytest.fixture
def make_evaluator():
    """Return a function that makes an evaluator of three cases, and the list of what its handlers have seen."""

    def _make(moment="", error=None, num_workers=0, outcomes=(), **options):
        error = FAULTS.get(moment) if error is None else error
        cases = [{"image": f"in/case_{i}.nii", "case_id": f"case_{i}", "value": float(i)} for i in range(3)]
        for number, outcome in outcomes:
            cases[number].update(outcome=outcome, reason=f"it is {outcome}")
        dataset = Dataset(cases, Load(error if moment == "load" else None))
        evaluator = CaseEvaluator(
            device=torch.device("cpu"),
            val_data_loader=CaseLoader(dataset, num_workers),
            network=nn.Identity(),
            inferer=Infer(error if moment == "infer" else None),
            postprocessing=Write(error if moment == "write" else None),
            **options,
        )
        seen = []

        @evaluator.on(Events.ITERATION_COMPLETED)
        def _measure(engine):
            for output in engine.state.output:
                Fault(error if moment == "measure" else None)(output["pred"])
                seen.append(output["pred"].meta["case_id"])

        return evaluator, seen

    return _make


@pytest.mark.parametrize("moment", FAULTS)
def test_a_case_that_fails_is_noted_and_the_others_are_done(moment, make_evaluator):
    evaluator, seen = make_evaluator(moment)
    evaluator.run()
    assert seen == ["case_0", "case_2"]
    (row,) = evaluator.state.refused
    assert row["case"] == "case_1" and row["image"] == "in/case_1.nii"
    assert (row["outcome"], row["reason"]) == REASONS[moment]


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [FAULTS["load"], ValueError("a fault\nof two lines")], ids=["foreseen", "not foreseen"]
)
def test_it_is_the_same_where_processes_load_the_cases(error, make_evaluator, caplog):
    rows = []
    for num_workers in (0, 2):
        evaluator, seen = make_evaluator("load", error, num_workers)
        evaluator.run()
        assert seen == ["case_0", "case_2"]
        rows.append(evaluator.state.refused)
    assert rows[0] == rows[1] and "\n" not in rows[0][0]["reason"]


def test_an_error_that_nobody_foresaw_leaves_its_traceback_in_the_log(make_evaluator, caplog):
    evaluator, _ = make_evaluator("infer")
    evaluator.run()
    assert "Traceback" in caplog.text and "in __call__" in caplog.text and "RuntimeError: shapes differ" in caplog.text
    caplog.clear()
    evaluator, _ = make_evaluator("write")
    evaluator.run()
    assert "Traceback" not in caplog.text


RUN = [
    OSError(errno.ENOSPC, "No space left on device", "out/case_1_seg.nii.gz"),
    torch.OutOfMemoryError("CUDA out of memory"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", RUN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("moment", FAULTS)
def test_what_concerns_the_run_ends_it(moment, error, make_evaluator):
    evaluator, seen = make_evaluator(moment, error)
    with pytest.raises((RuntimeError, OSError, KeyboardInterrupt)):  # MONAI wraps what a transform raises
        evaluator.run()
    assert seen == ["case_0"] and evaluator.state.refused == []


@pytest.mark.parametrize("moment", FAULTS)
def test_within_a_training_a_case_that_fails_ends_the_run(moment, make_evaluator):
    evaluator, _ = make_evaluator(moment, keep_going=False)
    with pytest.raises(Exception) as raised:  # MONAI wraps what a transform raises
        evaluator.run()
    assert str(root_cause(raised.value)) == str(FAULTS[moment])


def test_cases_that_are_left_out_beforehand_are_not_read(make_evaluator):
    evaluator, seen = make_evaluator("load", outcomes=[(0, "kept"), (1, "refused")])
    evaluator.run()
    assert seen == ["case_2"]
    assert [(row["case"], row["outcome"], row["reason"]) for row in evaluator.state.refused] == [
        ("case_0", "kept", "it is kept"),
        ("case_1", "refused", "it is refused"),
    ]


def test_a_second_run_notes_a_case_once(make_evaluator):
    evaluator, _ = make_evaluator("load")
    evaluator.run()
    evaluator.run()
    assert len(evaluator.state.refused) == 1


# ---- what a user sees ----------------------------------------------------------------------------


def test_a_line_tells_of_each_case(make_evaluator, caplog):
    caplog.set_level(logging.INFO)
    make_evaluator("infer")[0].run()
    lines = [record.getMessage() for record in caplog.records if " of 3: " in record.getMessage()]
    assert lines[0].startswith("1 of 3: case_0.nii, 0.")
    assert lines[1] == "2 of 3: failed: case_1.nii: RuntimeError: shapes differ"
    assert lines[2].startswith("3 of 3: case_2.nii, 0.")


def test_on_a_terminal_a_bar_takes_the_place_of_the_lines(make_evaluator, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    make_evaluator("infer")[0].run()
    assert "3/3" in terminal.getvalue() and "case_2.nii" in terminal.getvalue()
    assert "1 of 3" not in caplog.text
    assert "2 of 3: failed: case_1.nii" in caplog.text, "what is wrong is told beside the bar"


@pytest.mark.parametrize("moment", FAULTS)
def test_the_exit_status_is_1_after_a_line_that_names_the_case_and_the_first_reason(moment, make_evaluator, capsys):
    evaluator, _ = make_evaluator(moment)
    evaluator.run()
    with pytest.raises(SystemExit) as ended:
        leave_processes(evaluator)
    assert ended.value.code == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line == f"error: 1 of 3 cases were refused (case_1); the first: {REASONS[moment][1]}"


def test_the_exit_status_is_0_where_all_are_done_or_kept(make_evaluator):
    evaluator, _ = make_evaluator(outcomes=[(0, "kept")])
    evaluator.run()
    leave_processes(evaluator)


# ---- scores --------------------------------------------------------------------------------------


def make_scorer(cases, load, **options) -> SegmentationEvaluator:
    """Return an evaluator that finds exactly what is labeled."""
    one_hot = Lambda(lambda data: {**data, **{key: _one_hot(data[key]) for key in ("pred", "label")}})
    return SegmentationEvaluator(
        num_classes=2,
        device=torch.device("cpu"),
        val_data_loader=CaseLoader(Dataset(cases, load)),
        network=nn.Identity(),
        postprocessing=one_hot,
        **options,
    )


@pytest.mark.parametrize("bad", [(1,), (0, 1, 2)], ids=["one", "all"])
def test_a_case_without_a_score_leaves_the_scores_of_the_others_as_they_are(bad):
    cases = [{"image": f"case_{i}.nii", "case_id": f"case_{i}"} for i in range(3)]

    def load(case):
        if int(case["case_id"][-1]) in bad:
            raise InputError(f"{case['image']}: must be sound, got a fault; copy it")
        label = torch.zeros(1, 4, 4, 4)
        label[:, :2] = 1
        return {name: MetaTensor(label.clone(), meta={"filename_or_obj": case["image"]}) for name in ("image", "label")}

    evaluator = make_scorer(cases, load)
    evaluator.run()
    assert [row["case"] for row in evaluator.state.refused] == [f"case_{i}" for i in bad]
    scores = evaluator.state.metric_details["mean_dice"]
    if len(bad) == 1:
        assert evaluator.state.metrics["mean_dice"] == 1 and scores.tolist() == [[1.0], [1.0]]
    else:
        assert scores.isnan().tolist() == [[True]], "a row of its own, so that processes have one each"


@pytest.mark.parametrize("place", ["before the metrics", "a metric", "after the metrics"])
def test_a_case_whose_score_fails_has_no_row(place, tmp_path):
    cases = [{"image": f"case_{i}.nii", "case_id": f"case_{i}", "size": i} for i in range(3)]

    def load(case):
        label = torch.zeros(1, 4, 4, 4)
        label[:, : case["size"] + 1] = 1
        return {name: MetaTensor(label.clone(), meta={"filename_or_obj": case["image"]}) for name in ("image", "label")}

    def fail(output):
        if output[0]["image"].mean() == 0.5:
            raise ZeroDivisionError("division by zero")
        return from_engine(["pred", "label"])(output)

    save = SaveScores(tmp_path, "mean_dice", {0: "background", 1: "organ"})
    names = ["mean_dice", "other"]
    metrics = {
        name: MeanDice(
            include_background=False, output_transform=fail if name == place else from_engine(["pred", "label"])
        )
        for name in (names if place != "a metric" else ["mean_dice", "a metric"])
    }
    first, second = metrics
    evaluator = make_scorer(
        cases,
        load,
        key_val_metric={first: metrics[first]},
        additional_metrics={second: metrics[second]},
        val_handlers=[save],
    )
    if place == "before the metrics":
        handlers = evaluator._event_handlers[Events.ITERATION_COMPLETED]
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: fail(engine.state.output))
        handlers.insert(0, handlers.pop())
    if place == "after the metrics":
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: fail(engine.state.output))
    evaluator.run()
    assert [row["case"] for row in evaluator.state.refused] == ["case_1"]
    assert {len(scores) for scores in evaluator.state.metric_details.values()} == {2}
    table = [line.split(",") for line in (tmp_path / "mean_dice_raw.csv").read_text(encoding="utf-8").splitlines()]
    assert [row[0] for row in table] == ["filename", "case_0.nii", "case_2.nii"]
    assert [row[-1] for row in table[1:]] == ["1.000000", "1.000000"]


def _one_hot(label: MetaTensor) -> torch.Tensor:
    return torch.cat((1 - label, label))
