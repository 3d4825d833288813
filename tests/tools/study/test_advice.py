"""Laws of a study's advice, on curves that are made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml
from small_study import make_results, plan

from tools.study.advice import advise, export_command
from tools.study.plan import plan_runs
from tools.study.statistics import paired_tests

ARMS = ["scratch", "atlas"]


def advice_on(gain, cases=8, seconds=None):
    results = make_results(lambda arm, count, fold: 0.3 + 0.1 * count + gain(count) * (arm == "atlas"), cases=cases)
    results = [replace(result, training_seconds=(seconds or {}).get(result.run.arm, 1.0)) for result in results]
    return advise(results, ARMS, "scratch", paired_tests(results, ARMS, "scratch"))


def test_an_arm_that_is_told_from_the_reference_is_taken():
    advice = advice_on(lambda count: 0.1)
    assert advice.arm == "atlas"
    assert advice.run.num_labeled == 4
    assert (
        "highest Dice with 4 labeled scans, 0.800, +0.100 against scratch in the same draws (better in 5 of 5, p"
        in (advice.sentence)
    )


def test_an_arm_that_is_better_with_fewer_labels_alone_is_taken_where_no_other_is_higher():
    advice = advice_on(lambda count: 0.1 if count < 4 else 1e-12, cases=8)
    assert advice.arm == "atlas"
    assert "is better than scratch with 1, 2 of them" in advice.sentence


def test_of_two_arms_that_are_not_told_apart_the_quicker_is_taken():
    advice = advice_on(lambda count: 0.1, cases=2, seconds={"scratch": 60.0, "atlas": 600.0})
    assert advice.arm == "scratch"
    assert "atlas has the highest Dice" in advice.sentence
    assert "scratch is the quicker of the two (60 s against 10.0 min per run)" in advice.sentence


def test_the_reference_is_taken_where_it_is_the_best():
    assert advice_on(lambda count: -0.1).sentence.startswith("Take scratch: it has the highest Dice with 4 labeled")


def test_pseudo_labels_stay_with_the_study(content):
    study = plan(content)
    run = plan_runs(study)[0]
    job = replace(run.training, options={"pseudo_labels": "out/pseudo_labels/x", "phi": 1.0})
    export_command(study, replace(advice_on(lambda count: 0.1), arm="scratch", run=replace(run, training=job)))
    assert yaml.safe_load(Path("out/export/scratch.yaml").read_text(encoding="utf-8")) == {
        "pseudo_labels": None,
        "phi": 1.0,
    }


def test_what_is_exported_has_the_options_of_its_training(content):
    study = plan(content)
    run = next(run for run in plan_runs(study) if run.arm == "stl")
    command = export_command(study, replace(advice_on(lambda count: 0.1), arm="stl", run=run))
    assert command[:6] == ["python", "-m", "tools.export", "bundle", "--ckpt_dir", "out/runs/stl_n2_fold0_seed0"]
    path = Path("out/export/stl.yaml")
    assert command[7] == str(path.absolute())
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == {"num_validation": 1, "phi": 1.0}
