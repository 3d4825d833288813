"""Laws of `tools.study`. Two tests run `monai.bundle` itself; in the others a function or a stub takes its place."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from monai.handlers import write_metrics_reports

from tools.study.__main__ import collect_results, study, write_report
from tools.study.conduct import Runner, conduct, jobs_of
from tools.study.plan import Study, argument, plan_runs, read_study
from tools.study.report import compare, format_table, read_dice

CONFIGS = {
    "pretrain.yaml": ["bundle_root", "dataset_dir", "ckpt_dir", "fold", "seed", "max_epochs"],
    "train.yaml": [
        *["bundle_root", "dataset_dir", "ckpt_dir", "num_labeled", "fold", "seed", "pretrained"],
        *["num_validation", "phi", "text", "sizes"],
    ],
    "evaluate.yaml": ["split", "evaluation_dir"],
}
RECORDER = '''
"""Leave what each workflow of a bundle leaves."""
import json
from pathlib import Path


def pretrain(ckpt_dir):
    Path(ckpt_dir, "pretrained").mkdir(parents=True)
    Path(ckpt_dir, "pretrained/weights.pt").write_text("weights")


def train(ckpt_dir, **options):
    if options["phi"] == 13:
        raise ValueError("phi must not be 13")
    Path(ckpt_dir, "options.json").write_text(json.dumps(options))


def evaluate(evaluation_dir, dataset_dir):
    rows = ["filename,class0,class1,mean", f"{dataset_dir}/a.nii.gz,0.5,nan,0.5", f"{dataset_dir}/b.nii.gz,0.5,0.7,0.6"]
    Path(evaluation_dir, "mean_dice_raw.csv").write_text("\\n".join(rows))
'''
STUB = '''
"""Takes the place of `python -m monai.bundle`; a training with seed 1 waits until it is told to go on."""
import os, subprocess, sys, time
from pathlib import Path

run_id, options = sys.argv[2], dict(zip(sys.argv[3::2], sys.argv[4::2]))
print(run_id, os.environ["OMP_NUM_THREADS"])
with open("calls.txt", "a") as calls:
    calls.write(run_id + options["--seed"] + "\\n")
if run_id == "training" and options["--seed"] == "1" and not Path("go").exists():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path("waiting.partial").write_text(f"{os.getpid()} {child.pid}")
    Path("waiting.partial").rename("waiting")
    time.sleep(60)
if run_id == "evaluation":
    Path(options["--evaluation_dir"], "mean_dice_raw.csv").write_text("filename,class0,mean\\na,0.5,0.5\\n")
'''


class FakeRunner:
    """Note each command, and leave what the workflow would leave.

    Args:
        dice: takes arm, number of labels, fold, seed and case, returns the Dice of the case.
        failing: text in the `ckpt_dir` of commands that fail.
    """

    def __init__(self, dice=lambda *_: 0.5, failing=(), cases=("a", "b")):
        self.dice, self.failing, self.cases = dice, failing, cases
        self.calls = []

    def __call__(self, command, log_path):
        run_id, options = command[4], dict(zip(command[5::2], command[6::2], strict=True))
        folder = Path(options["--ckpt_dir"])
        self.calls.append(f"{folder.name} {run_id}")
        if any(text in self.calls[-1] for text in self.failing):
            log_path.write_text("a line\nloss must be finite, got nan\n\n", encoding="utf-8")
            return 3
        if run_id == "pretraining":
            (folder / "pretrained").mkdir(exist_ok=True)
            (folder / "pretrained" / "weights.pt").touch()
        if run_id == "evaluation":
            arm = folder.name.split("_n")[0]
            numbers = [int(options[f"--{name}"]) for name in ("num_labeled", "fold", "seed")]
            rows = [f"{case}\t{self.dice(arm, *numbers, case)}\t" for case in self.cases]
            text = "\n".join(["filename\tclass0\tmean", *(row + row.split("\t")[1] for row in rows)])
            (Path(options["--evaluation_dir"]) / "mean_dice_raw.csv").write_text(text, encoding="utf-8")
        return 0


@pytest.fixture
def content(tmp_path, monkeypatch):
    """Content of a study file in an empty folder, with a bundle whose configs know their ids and do nothing."""
    monkeypatch.chdir(tmp_path)
    Path("bundle/configs").mkdir(parents=True)
    Path("data").mkdir()
    for name, ids in CONFIGS.items():
        Path("bundle/configs", name).write_text(yaml.safe_dump(dict.fromkeys(ids)), encoding="utf-8")
    return {
        "name": "tiny",
        "dataset_dir": "data",
        "output_dir": "out",
        "bundle": "bundle",
        "num_labeled": [2, 4],
        "folds": [0, 1],
        "seeds": [0],
        "options": {"num_validation": 1},
        "pretrainings": {"wta": {"weights": "pretrained/weights.pt", "options": {"max_epochs": 3}}},
        "arms": {"scratch": {"options": {"pretrained": None}}, "stl": {"pretraining": "wta", "options": {"phi": 1.0}}},
        "reference": "scratch",
    }


def plan(content) -> Study:
    Path("study.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return read_study("study.yaml")


def run(content, runner, workers=1, resume=True):
    return conduct(jobs_of(plan_runs(plan(content))), runner, workers, resume)


def table_of(content):
    write_report(plan(content), plan_runs(plan(content)), "repeat me")
    return Path("out/table.md").read_text(encoding="utf-8")


def options_of(job):
    return dict(zip(job.command[5::2], job.command[6::2], strict=True))


@pytest.fixture
def real(content, monkeypatch):
    """The same study with a bundle that `monai.bundle` can run."""
    Path("modules").mkdir()
    Path("modules/recorder.py").write_text(RECORDER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path("modules").resolve()), str(Path(__file__).parents[3])]))
    training = ["num_labeled", "fold", "seed", "pretrained", "phi", "text", "sizes"]
    workflows = {
        "pretrain.yaml": ("pretraining", "recorder.pretrain", ["ckpt_dir"]),
        "train.yaml": ("training", "recorder.train", ["ckpt_dir", *training]),
        "evaluate.yaml": ("evaluation", "recorder.evaluate", ["evaluation_dir", "dataset_dir"]),
    }
    for name, (run_id, target, ids) in workflows.items():
        component = {"_target_": target, **{key: f"@{key}" for key in ids}}
        config = dict.fromkeys(CONFIGS[name], "default") | {f"do_{run_id}": component, run_id: [f"$@do_{run_id}"]}
        Path("bundle/configs", name).write_text(yaml.safe_dump(config), encoding="utf-8")
    Path("bundle/configs/small.yaml").write_text("{}\n", encoding="utf-8")
    return content | {"num_labeled": [2], "folds": [1], "override_files": ["configs/small.yaml"]}


def test_a_bundle_receives_the_values_of_the_study_file(real, capfd):
    real["arms"] = {"stl": {"pretraining": "wta", "options": {"phi": None, "text": "1.0", "sizes": [1, None, "a b"]}}}
    real["reference"] = "stl"
    plan(real)
    study("study.yaml")
    folder = Path("out/runs/stl_n2_fold1_seed0")
    assert json.loads((folder / "options.json").read_text(encoding="utf-8")) == {
        **{"num_labeled": 2, "fold": 1, "seed": 0, "pretrained": "out/pretraining/wta/pretrained/weights.pt"},
        **{"phi": None, "text": "1.0", "sizes": [1, None, "a b"]},
    }
    with Path("out/results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class1"], row["mean"]) for row in rows] == [
        ("a.nii.gz", "nan", "0.5"),
        ("b.nii.gz", "0.7", "0.6"),
    ]
    assert "0.550" in Path("out/table.md").read_text(encoding="utf-8")
    assert Path("out/curve.png").read_bytes().startswith(b"\x89PNG")
    assert "[3/3] stl_n2_fold1_seed0 evaluation: done" in capfd.readouterr().out


def test_a_run_that_fails_ends_the_tool_with_status_1(real, capfd):
    real["arms"] = {"scratch": {"options": {"pretrained": None, "phi": 13}}}
    plan(real)
    with pytest.raises(SystemExit, match="finished run to report"):
        study("study.yaml")
    output = capfd.readouterr().out
    assert "scratch_n2_fold1_seed0 training: FAILED" in output
    assert "skipped scratch_n2_fold1_seed0 evaluation: it needs scratch_n2_fold1_seed0 training" in output


@pytest.mark.parametrize(
    "value", [True, -1.5, 3, "random", "None", "true", "1.0", "a b", "a,b", "--x", "it's", "", "a #b"]
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [value, {"key": value}]])
def test_a_value_survives_the_command_line(value, wrap):
    from fire.parser import DefaultParseValue

    text = argument(wrap(value))
    assert not text.startswith("--")
    parsed = DefaultParseValue(text)
    assert parsed == wrap(value)
    assert type(parsed) is type(wrap(value))


def test_none_is_an_expression_because_monai_drops_none():
    assert argument(None) == "$None"


def test_an_arm_with_a_pretraining_starts_from_its_weights(content):
    runs = {(run.arm, run.num_labeled, run.draw): run for run in plan_runs(plan(content))}
    assert len(runs) == 8
    weights = "out/pretraining/wta/pretrained/weights.pt"
    assert options_of(runs["stl", 4, (1, 0)].training)["--pretrained"] == weights
    assert options_of(runs["scratch", 4, (1, 0)].training)["--pretrained"] == "$None"
    assert runs["scratch", 4, (1, 0)].training.needs == ()


def test_text_of_an_option_holds_the_fold_and_the_seed_of_its_draw(content):
    content |= {"folds": [3], "seeds": [5], "num_labeled": [2]}
    content["arms"] = {"other": {"options": {"pretrained": "other/fold{fold}_seed{seed}.pt"}}}
    content["reference"] = None
    (run,) = plan_runs(plan(content))
    assert run.training.options["pretrained"] == run.evaluation.options["pretrained"] == "other/fold3_seed5.pt"


def test_an_evaluation_repeats_the_options_of_its_training(content):
    for each in plan_runs(plan(content)):
        training, evaluation = options_of(each.training), options_of(each.evaluation)
        assert {**training, **evaluation} == {**evaluation, **training, "--config_file": evaluation["--config_file"]}
        assert evaluation["--split"] == "test"
        assert each.evaluation.config_files == ("bundle/configs/train.yaml", "bundle/configs/evaluate.yaml")


def test_what_is_evaluated_without_a_label_is_pretrained_with_each_seed_and_not_trained(content):
    Path("bundle/configs/zero_shot.yaml").write_text("text: nothing\n", encoding="utf-8")
    arm = {"workflow": "pretraining", "evaluation_files": ["configs/zero_shot.yaml"], "options": {"max_epochs": 2}}
    content |= {"arms": {"zero": arm}, "reference": None, "num_labeled": [1], "seeds": [0, 1], "folds": [0]}
    for each, seed in zip(plan_runs(plan(content)), ("0", "1"), strict=True):
        learned, evaluated = options_of(each.training), options_of(each.evaluation)
        assert each.training.run_id == "pretraining" and each.training.needs == ()
        assert each.training.config_files == ("bundle/configs/pretrain.yaml",)
        assert each.evaluation.config_files[-1] == "bundle/configs/zero_shot.yaml"
        assert learned["--seed"] == evaluated["--seed"] == seed
        assert learned["--max_epochs"] == "2" and "--max_epochs" not in evaluated
        assert evaluated["--num_validation"] == "1" and "--num_validation" not in learned
        assert "--num_labeled" not in {**learned, **evaluated}
        assert learned["--ckpt_dir"] == evaluated["--ckpt_dir"]


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
    assert run(content, lambda command, log_path: 0)[0] == "wta pretraining"
    assert "exit status 0, but it left no out/pretraining/wta/pretrained/weights.pt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_labelled": [2]}, "got 'num_labelled'; did you mean 'num_labeled'"),
        ({"arms": {"stl": {"pretrainin": "wta"}}}, "key of arms.stl .* did you mean 'pretraining'"),
        ({"arms": {"stl": {"pretraining": "wat"}}}, "did you mean 'wta'"),
        ({"reference": "scrach"}, "reference .* did you mean 'scratch'"),
        ({"split": "tests"}, "split .* did you mean 'test'"),
        ({"options": {"num_validatio": 1}}, "did you mean 'num_validation'"),
        ({"options": {"seed": 1}}, "options must leave 'seed' to the study"),
        ({"options": {"phi": "$print(1)"}}, "options.phi must not begin with"),
        ({"options": {"phi": [{"a": "@seed"}]}}, "options.phi must not begin with"),
        ({"options": {"phi": "1e-3"}}, "options.phi must be a number, got the text '1e-3'"),
        ({"dataset_dir": "%data"}, "paths must not begin with"),
        ({"arms": {"stl": {"pretraining": "wta", "options": {"pretrained": None}}}}, "leave 'pretrained' to the study"),
        ({"arms": {"../stl": {}}}, "must be named with letters"),
        ({"arms": {"zero": {"workflow": "pretrain"}}}, "arms.zero.workflow .* did you mean 'pretraining'"),
        ({"arms": {"zero": {"workflow": "pretraining", "pretraining": "wta"}}}, "arms.zero must have no pretraining"),
        (
            {"arms": {"zero": {"workflow": "pretraining", "options": {"nothing": 1}}}, "reference": None},
            "got 'nothing'",
        ),
        ({"num_labeled": [2, 2]}, "num_labeled must hold each number once"),
        ({"num_labeled": [0]}, "num_labeled must be a list of whole numbers from 1"),
        ({"pretrainings": {"wta": {}}}, "pretrainings.wta must have the key 'weights'"),
    ],
)
def test_a_study_that_cannot_be_meant_is_refused(content, change, message):
    with pytest.raises(ValueError, match=message):
        plan_runs(plan(content | change))


def test_a_config_that_lacks_an_id_of_the_study_is_refused(content):
    Path("bundle/configs/evaluate.yaml").write_text("evaluation_dir: x\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"option of .*evaluate.yaml must be a known one, got 'split'"):
        plan_runs(plan(content))


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_reads_what_the_metrics_saver_writes(tmp_path, delimiter):
    dice = {"mean_dice": np.array([[0.25, np.nan], [0.5, 1.0]])}
    write_metrics_reports(str(tmp_path), ["/data/a,b.nii.gz", "c"], None, dice, None, delimiter)
    read = read_dice(tmp_path / "mean_dice_raw.csv")
    assert list(read) == ["/data/a,b.nii.gz", "c"]
    assert read["/data/a,b.nii.gz"] == pytest.approx({"class0": 0.25, "class1": np.nan, "mean": 0.25}, nan_ok=True)
    assert read["c"] == {"class0": 0.5, "class1": 1.0, "mean": 0.75}


@pytest.mark.parametrize("text", ["", "filename,class0,mean\n", "case,mean\na,1\n", "filename,mean\na,1\na,1\n"])
def test_refuses_what_is_no_metrics_file(tmp_path, text):
    (tmp_path / "mean_dice_raw.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"mean_dice_raw.csv must hold"):
        read_dice(tmp_path / "mean_dice_raw.csv")


def worked_example(arm, num_labeled, fold, seed, case):
    """Case means rise by 0.1 and 0.3 from scratch to stl, 0.1 more in fold 1; with 4 labels they are equal."""
    gain = {"a": 0.1, "b": 0.3}[case] + 0.1 * fold
    return round(0.4 + (gain if arm == "stl" and num_labeled == 2 else 0), 3)


def test_the_table_is_what_a_hand_computes(content):
    """Draw means of stl with 2 labels: 0.4 + (0.1 + 0.3) / 2 = 0.6 and 0.7; mean 0.65, deviation 0.1 / sqrt(2).

    Differences per draw: 0.2 and 0.3. Per case: 0.15 and 0.35, all positive, so p = 2 / 2^2 = 0.5.
    """
    run(content, FakeRunner(worked_example))
    table = table_of(content)
    assert "| scratch | 0.400 ± 0.000 | 0.400 ± 0.000 | 0.0 |" in table
    assert "| stl | 0.650 ± 0.071 | 0.400 ± 0.000 | 0.0 (+ 0.0 shared pretraining) |" in table
    assert "| stl | 2 | +0.250 | +0.200 to +0.300 | 2/2 | 0.5 | 2 |" in table
    assert "n = 2 cases, 4 draws" not in table
    assert "n = 2 cases, 2 draws (folds 0, 1; seeds 0)" in table
    assert "Repeat with `repeat me`" in table


def test_equal_arms_have_no_p_value(content):
    run(content, FakeRunner(worked_example))
    assert "| stl | 4 | +0.000 | +0.000 to +0.000 | 0/2 | all differences are zero | 2 |" in table_of(content)


def test_a_case_without_any_class_is_left_out(content):
    run(content, FakeRunner(lambda *draw: "nan" if draw[-1] == "b" else 0.5))
    assert "| scratch | 0.500 ± 0.000 |" in table_of(content)
    assert "1 cases hold none of the classes" in table_of(content)


def test_arms_are_compared_on_the_cases_and_draws_that_both_have(content):
    """Fold 1 of stl is missing, and so is case b of fold 0: what is left is case a of fold 0."""
    run(content, FakeRunner(lambda arm, *draw: ("nan" if draw[-1] == "b" else 0.6) if arm == "stl" else 0.5))
    plan_ = plan(content)
    results = [result for result in collect_results(plan_, plan_runs(plan_)) if result.run.num_labeled == 2]
    stl = [result for result in results if result.cell == ("stl", 2) and result.run.draw == (0, 0)]
    scratch = [result for result in results if result.cell == ("scratch", 2)]
    for ours, theirs, difference in [(stl, scratch, 0.1), (scratch, stl, -0.1)]:
        comparison = compare(ours, theirs)
        assert comparison is not None
        assert comparison.differences == [difference]
        assert comparison.num_cases == 1


def test_every_case_has_a_row(content):
    run(content, FakeRunner(worked_example))
    table_of(content)
    with Path("out/results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 2
    row = next(row for row in rows if (row["arm"], row["fold"], row["case"]) == ("stl", "1", "b"))
    assert (row["num_labeled"], row["seed"], row["class0"], row["mean"]) == ("2", "0", "0.8", "0.8")
    assert float(row["pretraining_seconds"]) >= 0


def test_a_study_without_a_reference_compares_nothing(content):
    del content["reference"]
    run(content, FakeRunner())
    plan_ = plan(content)
    runs = plan_runs(plan_)
    assert "Wilcoxon p |" not in format_table(collect_results(plan_, runs), runs, "tiny", None, "")


def test_a_dry_run_prints_commands_and_runs_nothing(content, capsys):
    plan(content)
    study("study.yaml", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 17
    assert all("-m monai.bundle run" in line for line in lines)
    assert not Path("out").exists()


def test_an_unknown_option_is_refused_before_anything_runs(content):
    plan(content)
    with pytest.raises(SystemExit, match="got 'worker'; did you mean 'workers'"):
        study("study.yaml", worker=2)
    assert not Path("out").exists()


def test_a_report_without_any_finished_run_is_refused(content):
    plan(content)
    with pytest.raises(SystemExit, match="out must hold a finished run to report, got none"):
        study("study.yaml", report_only=True)


def test_a_command_gets_its_threads_and_its_log(tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        script = "import os; print(os.environ['OMP_NUM_THREADS']); raise SystemExit(4)"
        assert Runner(3, lock.fileno())([sys.executable, "-c", script], tmp_path / "log.txt") == 4
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "3\n"


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def start(content, monkeypatch):
    """Start the tool on a study of two seeds with a stub for `monai.bundle`; seed 1 waits for a file named go."""
    Path("modules/monai/bundle").mkdir(parents=True)
    Path("modules/monai/__init__.py").touch()
    Path("modules/monai/bundle/__init__.py").touch()
    Path("modules/monai/bundle/__main__.py").write_text(STUB, encoding="utf-8")
    content |= {"num_labeled": [2], "folds": [0], "seeds": [0, 1], "arms": {"scratch": {}}}
    plan(content)
    path = os.pathsep.join([str(Path("modules").resolve()), str(Path(__file__).parents[3])])
    started = []

    def start():
        command = [sys.executable, "-m", "tools.study", "study.yaml"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        own = signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests in the background ignore it, and hand that on
        started.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes))
        signal.signal(signal.SIGINT, own)
        return started[-1]

    yield start
    Path("go").touch()
    pids = [int(pid) for pid in Path("waiting").read_text(encoding="utf-8").split()] if Path("waiting").exists() else []
    for process in started:
        process.kill()
        process.wait()
    for pid in filter(is_alive, pids):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_study_that_was_stopped_goes_on_where_it_was(start, number):
    process = start()
    wait_until(Path("waiting").exists)
    process.send_signal(number)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 130, output
    pids = [int(pid) for pid in Path("waiting").read_text(encoding="utf-8").split()]
    wait_until(lambda: not any(map(is_alive, pids)))
    assert not Path("out/runs/scratch_n2_fold0_seed1/done.json").exists()

    Path("go").touch()
    process = start()
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 0, output
    calls = Path("calls.txt").read_text(encoding="utf-8").split()
    assert calls == ["training0", "evaluation0", "training1", "training1", "evaluation1"]
    assert "1 runs were interrupted" in Path("out/table.md").read_text(encoding="utf-8")


def test_a_study_that_was_killed_hard_waits_for_its_runs_to_end(start):
    process = start()
    wait_until(Path("waiting").exists)
    process.kill()
    process.communicate()
    second = start()
    output = second.communicate(timeout=30)[0]
    assert second.returncode == 1
    assert "output_dir must not be in use by another study or its runs, got out" in output
