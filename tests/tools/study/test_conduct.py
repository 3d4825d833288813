"""Laws of the conduct of a study: a stub takes the place of its runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from small_study import FakeRunner, run, table_of

from tools.study.engines import LocalRunner


@pytest.mark.parametrize(("per_fold", "folders"), [(False, ["wta"]), (True, ["fold0", "fold1"])])
def test_a_pretraining_runs_once_for_all_or_once_per_fold(content, per_fold, folders):
    content["pretrainings"]["wta"]["per_fold"] = per_fold
    runner = FakeRunner()
    assert run(content, runner) == []
    assert [call for call in runner.calls if "pretraining" in call] == [f"{folder} pretraining" for folder in folders]
    assert len(runner.calls) == len(folders) + 16


def test_only_the_arms_that_need_a_pretraining_wait_for_it(content):
    content["arms"] = {"stl": content["arms"]["stl"], "scratch": content["arms"]["scratch"]}
    fake, began = FakeRunner(), {}

    def slow_pretraining(command, log_path):
        began[f"{log_path.parent.name} {command[4]}"] = time.monotonic()
        if command[4] == "pretraining":
            time.sleep(0.3)
            began["end of pretraining"] = time.monotonic()
        return fake(command, log_path)

    assert run(content, slow_pretraining, workers=2) == []
    assert began["scratch_n2_fold0_seed0 training"] < began["end of pretraining"]
    assert all(began[name] > began["end of pretraining"] for name in began if name.startswith("stl"))


def test_a_finished_study_repeats_nothing(content):
    run(content, FakeRunner())
    runner = FakeRunner()
    assert run(content, runner) == []
    assert runner.calls == []


def test_a_larger_study_runs_only_what_is_new(content):
    run(content, FakeRunner())
    runner = FakeRunner()
    run(content | {"num_labeled": [2, 4, 8], "folds": [0]}, runner)
    assert sorted(set(call.split("_fold")[0] for call in runner.calls)) == ["scratch_n8", "stl_n8"]


def test_without_resume_everything_is_repeated_and_the_old_output_kept(content):
    run(content, FakeRunner())
    runner = FakeRunner()
    run(content, runner, resume=False)
    assert len(runner.calls) == 17
    assert Path("out/runs/stl_n2_fold0_seed0.old1/done.json").is_file()


def test_a_finished_run_with_other_options_is_refused(content):
    run(content, FakeRunner())
    content["arms"]["stl"]["options"]["phi"] = 2.0
    with pytest.raises(ValueError, match=r"stl_n2_fold0_seed0 training must keep .* got phi: 1\.0 -> 2\.0;"):
        run(content, FakeRunner())


def test_the_folder_of_the_data_may_be_named_otherwise(content):
    run(content, FakeRunner())
    runner = FakeRunner()
    assert run(content | {"dataset_dir": str(Path(content["dataset_dir"]).resolve())}, runner) == []
    assert runner.calls == []


def test_a_failed_run_with_other_options_starts_anew(content):
    run(content, FakeRunner(failing=["stl_n2"]))
    content["arms"]["stl"]["options"]["phi"] = 2.0
    content["num_labeled"] = [2]
    assert run(content, FakeRunner()) == []
    assert Path("out/runs/stl_n2_fold0_seed0.old1/log.txt").is_file()


def test_a_repeated_pretraining_repeats_its_arms(content):
    run(content, FakeRunner())
    Path("out/pretraining/wta/done.json").unlink()
    runner = FakeRunner()
    run(content, runner)
    assert len(runner.calls) == 1 + 8
    assert not any("scratch" in call for call in runner.calls)


def test_a_failed_run_is_reported_and_does_not_stop_the_rest(content, capsys):
    lost = run(content, FakeRunner(failing=["stl_n2_fold0_seed0 training"]))
    assert lost == ["stl_n2_fold0_seed0 training", "stl_n2_fold0_seed0 evaluation"]
    output = capsys.readouterr().out
    assert "stl_n2_fold0_seed0 training: FAILED" in output
    assert "exit status 3: loss must be finite, got nan" in output
    assert "(1/2 draws)" in table_of(content)
    assert "Partial: 7 of 8 runs." in table_of(content)


def test_the_arms_of_a_failed_pretraining_are_skipped(content, capsys):
    lost = run(content, FakeRunner(failing=["pretraining"]))
    assert lost == ["wta pretraining", *(name for name in lost if name.startswith("stl"))]
    assert len(lost) == 1 + 8
    assert "skipped stl_n4_fold1_seed0 training: it needs wta pretraining" in capsys.readouterr().out


def test_a_run_that_leaves_no_result_has_failed(content, capsys):
    assert run(content, lambda command, log_path: (0, 1.0))[0] == "wta pretraining"
    assert "exit status 0, but it left no out/pretraining/wta/pretrained/weights.pt" in capsys.readouterr().out


def test_the_scores_of_a_program_that_is_no_bundle_are_in_the_report(content):
    script = '[ "$0" = training ] || printf "filename,a,mean\\ncase,0.5,0.5\\n" > "$1/evaluation/mean_dice_raw.csv"'
    content["arms"] = {"other": {"command": ["bash", "-c", script, "{workflow}", "{output_dir}"]}}
    content |= {"reference": None, "num_labeled": [2], "folds": [0]}
    with Path("lock").open("w") as lock:
        assert run(content, LocalRunner(1, 1, lock.fileno())) == []
    assert "| other | 0.500 |" in table_of(content)
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "out/runs/other_n2_fold0_seed0" in page and "tools.export" not in page
    assert run(content, FakeRunner(failing=["other"])) == []  # it is finished
