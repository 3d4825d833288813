"""Self-training by one command: from one label and a few scans without one, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from common.data import write_phantoms
from tools.self_training import self_training
from tools.study.plan import read_study


@pytest.fixture
def data(tmp_path):
    write_phantoms(tmp_path / "data", num_training=1, num_test=1, num_unlabeled=3, size=32)
    return tmp_path / "data"


def plan_of(data, folder, **options):
    self_training(dataset_dir=str(data), output_dir=str(folder), dry_run=True, **options)
    return read_study(folder / "study.yaml")


def test_the_plan_has_two_teachers_and_a_student_of_all_labels_and_scores_the_test_cases(data, tmp_path, capsys):
    plan = plan_of(data, tmp_path / "out", num_unlabeled=2)
    *teachers, student = plan.arms
    assert plan.arms[student].teachers == [*reversed(teachers)]
    assert plan.arms[student].num_unlabeled == 2
    assert (plan.num_labeled, plan.split) == ([1], "test")
    commands = capsys.readouterr().out.splitlines()
    assert [command.split(" -m ")[1].split()[0] for command in commands].count("tools.pseudo_labels") == 1
    assert sum(" run evaluation " in command for command in commands) == 3


def test_without_a_case_to_score_it_trains_all_the_same(data, tmp_path, capsys):
    path = data / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "test": []}))
    plan_of(data, tmp_path / "out")
    out = capsys.readouterr().out
    assert " run evaluation " not in out
    assert "--pseudo_labels" in out


def test_the_student_of_a_round_teaches_in_the_next_one(data, tmp_path):
    plan = plan_of(data, tmp_path / "out", rounds=3)
    atlas = plan.arms["self_training"].teachers[0]
    assert plan.arms["self_training_2"].teachers == [atlas, "self_training"]
    assert plan.arms["self_training_3"].teachers == [atlas, "self_training_2"]


def test_another_plan_in_the_same_folder_and_data_without_unlabeled_scans_are_refused(data, tmp_path):
    plan_of(data, tmp_path / "out")
    plan_of(data, tmp_path / "out")
    with pytest.raises(ValueError, match="must go on with the same options"):
        plan_of(data, tmp_path / "out", rounds=2)
    content = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**content, "unlabeled": []}))
    with pytest.raises(ValueError, match="must have scans without a label, got none"):
        plan_of(data, tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dataset_dir": "nowhere"}, "dataset_dir must be a folder, got nowhere"),
        ({}, "dataset_dir must be a folder, got none; pass --dataset_dir"),
        ({"plan_file": "plan.yaml", "dataset_dir": "data"}, "must stand in plan.yaml, got them beside it"),
        ({"dataset_dir": ".", "rounds": 0}, "rounds must be a whole number from 1, got 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        self_training(**options)


def test_a_plan_whose_last_arm_has_no_teacher_is_refused(data, tmp_path):
    plan_of(data, tmp_path / "out")
    content = yaml.safe_load((tmp_path / "out/study.yaml").read_text())
    del content["arms"]["self_training"]
    Path(tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="the last arm must have teachers, got"):
        self_training(str(tmp_path / "plan.yaml"))


@pytest.mark.slow
def test_one_label_and_three_scans_without_one_give_a_student_that_segments(data, tmp_path, capsys):
    self_training(dataset_dir=str(data), output_dir=str(tmp_path / "out"), epochs=1)
    out = capsys.readouterr().out
    assert "| self_training |" in out
    assert (tmp_path / "out/runs/self_training_n1_fold0_seed0/model.pt").is_file()
    assert "run inference" in out
    assert f"Repeat with `python -m tools.self_training {tmp_path / 'out' / 'study.yaml'}`" in out
    made = json.loads((tmp_path / "out/pseudo_labels/self_training_n1_fold0_seed0/pseudo_labels.json").read_text())
    assert len(made["cases"]) == 3
