"""Laws of presets: what a data set and a budget of time make of a study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from common.data import write_phantoms
from tools.study import __main__ as command
from tools.study import engines
from tools.study.conduct import jobs_of
from tools.study.plan import plan_runs, read_study
from tools.study.preset import Cost, Facts, describe, fit_budget, list_presets, read_facts

CT = Facts("ct", [0, 1, 2, 3, 4], 64, 16, 80, True, (500.0, 500.0, 320.0), 500 * 500 * 320, 2.5)
CROP = Facts("mr", [0, 1], 5, 3, 0, False, (35.0, 51.0, 35.0), 35 * 51 * 35, 1.0)


def test_a_whole_ct_has_the_bundles_own_numbers():
    values = describe(CT)
    assert values["num_labeled"] == [1, 2, 4, 8, 16, 32, 64]
    assert (values["air"], values["atlas_clip"]) == (-500, [-160, 300])
    assert (values["field_of_view"], values["atlas_spacing"]) == ([309.0, 309.0, 309.0], 3.0)
    assert values["spacing"] == pytest.approx((500 * 500 * 320 / 2e6) ** (1 / 3), abs=0.01)


def test_a_small_crop_of_mr_is_taken_whole_with_its_own_voxels_and_no_hounsfield_units():
    values = describe(CROP)
    assert values["num_labeled"] == [1, 2, 4]
    assert [values[name] for name in ("air", "atlas_clip", "field_of_view", "spacing")] == [None] * 4
    assert (values["atlas_spacing"], values["sampling"]) == (1.0, "bilinear")


def test_trainings_become_as_long_as_the_time_allows():
    """Six runs of 10 s and an epoch of 2 s take 60 + 6 x 2 x epochs seconds."""
    assert fit_budget(Cost(10, 2), 300, [1, 2], [0, 1, 2]) == ([1, 2], [0, 1, 2], 20)
    assert fit_budget(Cost(10, 2), 10**6, [1, 2], [0, 1, 2]) == ([1, 2], [0, 1, 2], 64)


def test_where_they_would_be_too_short_folds_are_left_out_first_and_then_the_largest_label_counts():
    cost = Cost(0, 1)  # 8 s at least
    assert fit_budget(cost, 8 * 3 * 4, [1, 2, 4], [0, 1, 2, 3, 4]) == ([1, 2, 4], [0, 1, 2, 3], 8)
    assert fit_budget(cost, 8 * 2 * 4, [1, 2, 4], [0, 1, 2, 3, 4]) == ([1, 2], [0, 1, 2, 3], 8)
    assert fit_budget(cost, 1, [1, 2, 4], [0, 1, 2, 3, 4]) == ([1, 2], [0, 1, 2], 8)


@pytest.mark.parametrize("seconds", [1, 100, 1000, 5000, 10**5])
def test_a_plan_of_more_than_the_least_fits_its_time(seconds):
    counts, folds, epochs = fit_budget(Cost(20, 1.5), seconds, [1, 2, 4, 8], [0, 1, 2, 3, 4])
    is_least = (len(counts), len(folds), epochs) == (2, 3, 8)
    assert is_least or len(counts) * len(folds) * (20 + 1.5 * epochs) <= seconds


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data set of six labeled phantoms."""
    monkeypatch.chdir(tmp_path)
    write_phantoms("data", num_training=6, num_test=1, num_unlabeled=2, size=24)
    return Path("data")


def test_facts_are_those_of_the_data_list(data):
    facts = read_facts(data)
    assert (facts.folds, facts.num_left, facts.num_scored) == ([0, 1, 2, 3, 4], 4, 2)
    assert (facts.num_unlabeled, facts.is_ct) == (2, True)


@pytest.mark.parametrize(
    ("change", "folds"),
    [
        (lambda cases: {"training": cases[:4], "validation": cases[4:]}, [0]),
        (lambda cases: {"training": [{**case, "fold": 3 * (i % 2)} for i, case in enumerate(cases)]}, [0, 3]),
        (lambda cases: {"training": [{**case, "patient": f"p{i // 2}"} for i, case in enumerate(cases)]}, [0, 1, 2]),
        (lambda cases: {"folds": [["phantom_000"], ["phantom_001", "phantom_002"]]}, [0, 1]),
    ],
)
def test_folds_are_those_that_the_data_list_holds_out(data, change, folds):
    content = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    (data / "dataset.json").write_text(json.dumps(content | change(content["training"])), encoding="utf-8")
    assert read_facts(data).folds == folds


def test_a_single_labeled_scan_is_refused(tmp_path):
    write_phantoms(tmp_path / "data", num_training=1, num_test=0, num_unlabeled=1, size=24)
    with pytest.raises(ValueError, match=r"training must list labels of two patients or more.*got 1; label another"):
        read_facts(tmp_path / "data")


class TimedRunner:
    """Stand-in for the runs of a preset: each leaves its product, a training a history of epochs of half a second."""

    stop_after = 10**6

    def __init__(self, workers, num_threads, lock):
        self.workers = workers

    def close(self):
        pass

    def __call__(self, command, log_path):
        if len(CALLS) >= TimedRunner.stop_after:
            raise KeyboardInterrupt
        run_id, folder = command[4] if "monai.bundle" in command else command[2], log_path.parent
        CALLS.append(str(folder))
        products = {
            "tools.unlabeled": "scans.json",
            "tools.pseudo_labels": "pseudo_labels.json",
            "inference": "report.json",
        }
        if run_id == "training":
            (folder / "history.csv").write_text("epoch,seconds\n1,0.7\n2,0.5\n", encoding="utf-8")
        elif run_id == "evaluation":
            dice = {"scratch": 0.5, "atlas": 0.6, "self_training": 0.7}[folder.parent.name.split("_n")[0]]
            rows = [f"case_{number},{dice + number / 100}" for number in range(10)]
            text = "\n".join(["filename,liver,mean", *(row + row[row.index(",") :] for row in rows)])
            (folder / "mean_dice_raw.csv").write_text(text, encoding="utf-8")
        else:
            (folder / products[run_id]).write_text("[]", encoding="utf-8")
        return 0, 0.01


CALLS: list[str] = []


@pytest.fixture
def run_preset(data, monkeypatch):
    """Run the preset on six phantoms, half of them for validation, up to some number of jobs; return their folders."""
    listed = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    listed |= {"training": listed["training"][:3], "validation": listed["training"][3:]}
    (data / "dataset.json").write_text(json.dumps(listed), encoding="utf-8")
    monkeypatch.setattr(engines, "LocalRunner", TimedRunner)

    def run(stop_after=10**6, **options):
        CALLS.clear()
        monkeypatch.setattr(TimedRunner, "stop_after", stop_after)
        command.study(preset="few_labels", dataset_dir=str(data), output_dir="out", **options)
        return [*CALLS]

    return run


@pytest.mark.slow
def test_a_preset_times_its_arms_writes_its_study_and_reports_it(run_preset, capsys):
    calls = run_preset(minutes=30)
    study = read_study("out/study.yaml")
    assert (study.num_labeled, study.folds, study.split) == ([1, 2], [0], "validation")
    assert study.arms["scratch"].options["max_epochs"] == 64
    assert study.arms["scratch"].options["val_interval"] == 64
    timed = [call for call in calls if "timing" in call]
    assert calls[: len(timed)] == timed
    assert len(calls) - len(timed) == len(jobs_of(plan_runs(study)))
    assert [*study.arms] == ["scratch", "atlas", "self_training"]
    for name in ("results.csv", "table.md", "curve.png", "report.html"):
        assert Path("out", name).is_file()
    assert "Take self_training" in Path("out/report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_bundles_know_every_option_of_a_preset(run_preset):
    """A plan refuses an option that no config has."""
    run_preset(minutes=30)
    plan_runs(read_study("out/study.yaml"))
    assert list_presets() == ["few_labels"]


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [3, 12, 20])
def test_a_preset_that_was_stopped_at_any_moment_goes_on_with_the_same_command(run_preset, stop_after, capsys):
    with pytest.raises(SystemExit, match="130"):
        run_preset(stop_after, minutes=30)
    before = [*CALLS]
    after = run_preset(minutes=30)
    assert len(before) == stop_after
    assert len({*before, *after}) == len(before) + len(after)
    assert run_preset(minutes=30) == []


@pytest.mark.slow
def test_without_any_scan_that_has_no_label_there_is_no_self_training(run_preset, data):
    content = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    content |= {"training": content["training"][:1], "unlabeled": []}
    (data / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    run_preset(minutes=30)
    study = read_study("out/study.yaml")
    assert ([*study.arms], study.num_labeled) == (["scratch", "atlas"], [1])


@pytest.mark.slow
def test_other_minutes_keep_the_study_that_was_made(run_preset):
    run_preset(minutes=30)
    made = Path("out/study.yaml").read_text(encoding="utf-8")
    assert run_preset(minutes=1) == []
    assert Path("out/study.yaml").read_text(encoding="utf-8") == made


@pytest.mark.slow
def test_a_repetition_makes_the_study_anew_and_keeps_the_old_one(run_preset):
    first = run_preset(minutes=30)
    assert run_preset(minutes=30, resume=False) == first
    assert Path("out/runs.old1").is_dir()
    assert Path("out/study.yaml.old1").is_file()


def test_a_leak_is_refused_before_anything_runs(run_preset, data):
    content = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    (data / "copy.nii.gz").write_bytes((data / content["test"][0]["image"]).read_bytes())
    content["unlabeled"].append({"image": "copy.nii.gz"})
    (data / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"copy\.nii\.gz: must not be learned from"):
        run_preset(minutes=30)
    assert CALLS == []


@pytest.mark.slow
def test_the_study_of_other_data_is_refused(run_preset, tmp_path):
    run_preset(minutes=30)
    write_phantoms("others", num_training=6, num_test=1, num_unlabeled=2, size=24)
    with pytest.raises(ValueError, match=r"out/study\.yaml: study must be of .*others, got .*data; pass another"):
        command.study(preset="few_labels", dataset_dir="others", output_dir="out")


@pytest.mark.parametrize("option", ["report_only", "dry_run"])
def test_a_study_that_is_not_made_yet_has_nothing_to_show(run_preset, option):
    with pytest.raises(FileNotFoundError, match=r"out/study\.yaml: must be there for this, got none; run the study"):
        run_preset(**{option: True})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"preset": "few_label", "dataset_dir": "data"}, "did you mean 'few_labels'"),
        ({"preset": "few_labels"}, "dataset_dir must be a folder, got None"),
        ({"preset": "few_labels", "dataset_dir": "data", "study_file": "study.yaml"}, "must not be given beside"),
        ({}, "study_file must be given"),
        ({"study_file": "study.yaml", "output_dir": "out"}, "output_dir stand in it"),
        ({"study_file": "study.yaml", "minutes": 0}, "minutes must be a number above 0"),
    ],
)
def test_a_command_names_a_study_file_or_a_preset_with_its_data(data, options, text):
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        command.study(**options)


def test_every_word_of_a_preset_is_known():
    words = {"name", "dataset_dir", "output_dir", "epochs", *describe(CT)}
    for name in list_presets():
        text = (Path(command.__file__).parent / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
        assert {word for word in _texts(yaml.safe_load(text)) if word.startswith("{")} <= {f"{{{w}}}" for w in words}


def _texts(content):
    if isinstance(content, dict):
        content = [*content.values()]
    if isinstance(content, list):
        return [text for item in content for text in _texts(item)]
    return [content] if isinstance(content, str) else []
