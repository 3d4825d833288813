"""Arms of a study that learn from other arms: their jobs, in their order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from small_study import CONFIGS, options_of, plan

from tools.study.conduct import jobs_of
from tools.study.plan import plan_runs


@pytest.fixture
def taught(content):
    """Study with two teachers and their student, for each of whom a bundle has an inference."""
    ids = ["bundle_root", "dataset_dir", "ckpt_dir", "output_dir", "save_probabilities", "phi"]
    Path("bundle/configs/inference.yaml").write_text("".join(f"{name}: 1\n" for name in ids), encoding="utf-8")
    known = dict.fromkeys([*CONFIGS["train.yaml"], "pseudo_labels"])
    Path("bundle/configs/train.yaml").write_text(yaml.safe_dump(known), encoding="utf-8")
    content["arms"] = {
        "atlas": {"options": {"phi": 2.0}},
        "scratch": {},
        "student": {"teachers": ["atlas", "scratch"], "num_unlabeled": 7, "pooling": {"keep": 0.5}},
    }
    content |= {"folds": [0], "seeds": [0], "num_labeled": [2], "reference": "scratch", "pretrainings": {}}
    return content


def test_teachers_are_trained_then_segment_then_are_pooled_before_the_student_learns(taught):
    jobs = jobs_of(plan_runs(plan(taught)))
    names = [job.name for job in jobs]
    assert len(names) == len({*names})
    places = {name: place for place, name in enumerate(names)}
    assert all(places[need.name] < places[job.name] for job in jobs for need in job.needs)
    pool = next(job for job in jobs if job.run_id == "tools.pseudo_labels")
    assert pool.options["keep"] == 0.5
    assert pool.options["teachers"] == [f"out/runs/{name}_n2_fold0_seed0/unlabeled_7" for name in ("atlas", "scratch")]
    student = next(job for job in jobs if job.name == "student_n2_fold0_seed0 training")
    assert options_of(student)["--pseudo_labels"] == str(pool.folder)
    assert pool in student.needs


def test_a_teacher_segments_with_its_own_weights_and_options_what_the_student_is_to_learn(taught):
    jobs = {job.name: job for job in jobs_of(plan_runs(plan(taught)))}
    segmentation = jobs["atlas_n2_fold0_seed0 segmentation of 7 unlabeled"]
    options = options_of(segmentation)
    assert options["--ckpt_dir"] == "out/runs/atlas_n2_fold0_seed0"
    assert options["--phi"] == "2.0"
    assert options["--dataset_dir"] == "out/unlabeled/unlabeled_n2_fold0_seed0_7/scans.json"
    assert options["--save_probabilities"] == "True"
    assert "--num_labeled" not in options
    scans = jobs["unlabeled_n2_fold0_seed0_7"]
    assert scans.command[2] == "tools.unlabeled"
    assert scans.options["num_labeled"] == 2


def test_without_labels_only_those_arms_are_run_that_need_none(taught):
    Path("bundle/configs/zero_shot.yaml").write_text("text: nothing\n", encoding="utf-8")
    zero = {"workflow": "pretraining", "evaluation_files": ["configs/zero_shot.yaml"]}
    arms = {"zero": zero, "scratch": {}, "own": {"teachers": ["zero"]}, "both": {"teachers": ["zero", "scratch"]}}
    taught |= {"arms": arms, "reference": None, "num_labeled": [0, 2]}
    found = [(run.num_labeled, run.arm) for run in plan_runs(plan(taught))]
    assert found == [(0, "zero"), (0, "own"), *((2, arm) for arm in arms)]


def test_two_students_of_one_teacher_share_its_segmentations(taught):
    taught["arms"]["second"] = {**taught["arms"]["student"], "pooling": {}}
    names = [job.name for job in jobs_of(plan_runs(plan(taught)))]
    assert sum("segmentation of 7 unlabeled" in name for name in names) == 2
    assert sum(name.endswith("pseudo-labels") for name in names) == 2


def test_the_trainings_of_several_seeds_teach_each_student(taught):
    taught |= {"seeds": [0, 1]}
    taught["arms"]["student"]["teacher_seeds"] = [0, 1, 2]
    jobs = jobs_of(plan_runs(plan(taught)))
    names = [job.name for job in jobs]
    assert len(names) == len({*names})
    places = {name: place for place, name in enumerate(names)}
    assert all(places[need.name] < places[job.name] for job in jobs for need in job.needs)
    pools = [job for job in jobs if job.run_id == "tools.pseudo_labels"]
    taught_by = [f"{name}_n2_fold0_seed{seed}" for name in ("atlas", "scratch") for seed in range(3)]
    teachers = [f"out/runs/{teacher}/unlabeled_7" for teacher in taught_by]
    assert [pool.options["teachers"] for pool in pools] == [teachers, teachers]
    trained = [job for job in jobs if job.name == "scratch_n2_fold0_seed2 training"]
    assert [job.options["seed"] for job in trained] == [2]  # of a seed that is no draw of the study
    assert "scratch_n2_fold0_seed2 evaluation" not in names


def test_the_seed_of_the_draw_is_the_teacher_s_where_none_is_named(taught):
    own = plan_runs(plan(taught))
    taught["arms"]["student"]["teacher_seeds"] = [0]
    assert plan_runs(plan(taught)) == own


def test_a_student_may_teach_the_next_one(taught):
    taught["arms"]["second"] = {"teachers": ["student", "atlas"], "num_unlabeled": 7}
    names = [job.name for job in jobs_of(plan_runs(plan(taught)))]
    assert names.index("student_n2_fold0_seed0 training") < names.index("second_n2_fold0_seed0 pseudo-labels")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"teachers": ["student"]}, "must be a known one, got 'student'"),
        ({"teachers": ["other"]}, "must be a known one, got 'other'"),
        ({"teachers": ["atlas", "atlas"]}, "must name each arm once"),
        ({"teachers": ["atlas"], "num_unlabeled": 0}, "num_unlabeled must be a list of whole numbers from 1"),
        ({"teachers": ["atlas"], "pooling": {"kept": 0.5}}, "must have the keys weights, keep and limit, got 'kept'"),
        ({"teacher_seeds": [0]}, "teacher_seeds must come with teachers, got none"),
        ({"teachers": ["atlas"], "teacher_seeds": [0, 0]}, "teacher_seeds must hold each number once"),
        ({"teachers": "atlas"}, "teachers of arms.student must be a list"),
    ],
)
def test_teachers_that_cannot_teach_are_refused(taught, change, sentence):
    taught["arms"]["student"] = change
    with pytest.raises((ValueError, TypeError), match=sentence):
        plan(taught)
