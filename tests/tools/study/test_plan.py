"""Laws of a study's file, and of the commands that follow from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fire.parser import DefaultParseValue
from small_study import options_of, plan

from tools.study.plan import argument, plan_runs


@pytest.mark.parametrize(
    "value", [True, -1.5, 3, "random", "None", "true", "1.0", "a b", "a,b", "--x", "it's", "", "a #b"]
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [value, {"key": value}]])
def test_a_value_survives_the_command_line(value, wrap):
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


def test_a_command_is_run_as_training_and_as_evaluation_with_the_draw_in_its_words(content):
    words = ["{workflow}", "{dataset_dir}", "{output_dir}", "{num_labeled}{fold}{seed}", "{split}", "{num_validation}"]
    content["arms"] = {"other": {"command": ["bash", "other.sh", *words, 3, 0.5]}}
    content |= {"folds": [3], "seeds": [5], "num_labeled": [2], "reference": None}
    (run,) = plan_runs(plan(content))
    folder = "out/runs/other_n2_fold3_seed5"
    for job, workflow in ((run.training, "training"), (run.evaluation, "evaluation")):
        assert job.run_id == workflow
        assert job.command == ["bash", "other.sh", workflow, "data", folder, "235", "test", "1", "3", "0.5"]
        assert job.settings["command"] == job.command
    assert run.evaluation.product == Path(folder, "evaluation/mean_dice_raw.csv")
    assert run.evaluation.needs == (run.training,)


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
        ({"arms": {"a": {"command": ["x", "{foldd}"]}}, "reference": None}, "got 'foldd'; did you mean 'fold'"),
        ({"arms": {"a": {"command": ["x", None]}}}, "arms.a.command must be a list of texts and numbers, got None"),
        (
            {"arms": {"a": {"command": ["x"]}, "b": {"teachers": ["a"]}}, "reference": None},
            "arms.b.teachers must be bundles, got the program a",
        ),
        ({"arms": {"a": {"command": ["x"], "options": {"phi": 1}}}}, "nothing beside a command, got options"),
        ({"num_labeled": [2, 2]}, "num_labeled must hold each number once"),
        ({"num_labeled": [-1]}, "num_labeled must be a list of whole numbers from 0"),
        ({"pretrainings": {"wta": {}}}, "pretrainings.wta must have the key 'weights'"),
    ],
)
def test_a_study_that_cannot_be_meant_is_refused(content, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        plan_runs(plan(content | change))


def test_a_config_that_lacks_an_id_of_the_study_is_refused(content):
    Path("bundle/configs/evaluate.yaml").write_text("evaluation_dir: x\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"option of .*evaluate.yaml must be a known one, got 'split'"):
        plan_runs(plan(content))
