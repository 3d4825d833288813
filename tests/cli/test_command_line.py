"""Laws of the options of a command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import monai.bundle
import pytest
import yaml

from common.cli.command_line import check_command_line

COMMAND = str(Path(monai.bundle.__file__).with_name("__main__.py"))
TRAIN = {"max_epochs": 3, "learning_rate": 0.1, "train": {"interval": 1, "trainer": {"_target_": "Trainer"}}, "run": []}
DEMO = {"spacing": 6.0, "train::interval": 2, "train::handlers": [{"_target_": "Handler"}], "+run": []}


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return a function that checks the command line `python -m monai.bundle` with some arguments."""
    monkeypatch.chdir(tmp_path)
    Path("train.yaml").write_text(yaml.safe_dump(TRAIN), encoding="utf-8")
    Path("demo.yaml").write_text(yaml.safe_dump(DEMO), encoding="utf-8")

    def check(*arguments: str, program: str = COMMAND) -> None:
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        check_command_line()

    return check


BOTH = ("run", "training", "--config_file", "['train.yaml','demo.yaml']")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--max_epochs", "3", "--learning_rate=0.2", "-spacing", "-1"),
        ("--max-epochs", "3"),  # fire takes a hyphen for an underscore
        ("--train::interval", "2", "--train#interval", "3"),
        ("--train::trainer::amp", "True", "--train::handlers::0::prefix", "x"),  # left to the component
        ("--meta_file", "m.json", "--logging_file", "l.conf", "--workflow_type", "train", "--init_id", "initialize"),
        ("--tracking", "mlflow", "--experiment_name", "e", "--tracking_uri", "u", "--save_execute_config", "False"),
        ("--tracking", "{'configs': {'wandb_project': 'p'}}", "--wandb_project", "q"),
        ("--+run", "[]"),
        ("--learning_rate", "0.3", "--", "--trace"),
    ],
)
def test_known_options_pass(check, capsys, options):
    check(*BOTH, *options)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--max_epoch", "3"), "--max_epoch must be an option of train.yaml + demo.yaml; did you mean --max_epochs?"),
        (("-max_epoch=3",), "--max_epoch must .* did you mean --max_epochs?"),
        (("--max-epoch", "3"), "--max_epoch must .* did you mean --max_epochs?"),
        (("--max_epochs", "3", "--spacin", "2"), "--spacin must .* did you mean --spacing?"),
        (("--train::intervals", "2"), "--train::intervals must .* did you mean --train::interval?"),
        (("--train#intervals", "2"), "--train::intervals must .* did you mean --train::interval?"),
        (("--trackin", "mlflow"), "--trackin must .* did you mean --tracking?"),
        (("--experiment_name", "e"), "--experiment_name must"),  # of the tracking that is not asked for
        (("--zzz", "2"), "--zzz must .*; what may be changed stands at the top of train.yaml"),
    ],
)
def test_an_unknown_option_is_refused_with_the_one_that_was_meant(check, options, sentence):
    """MONAI adds it to the config in silence."""
    with pytest.raises(ValueError, match=sentence.replace("+", r"\+").replace("?", r"\?")):
        check(*BOTH, *options)


def test_an_option_is_known_to_the_files_of_the_run_only(check):
    check(*BOTH, "--spacing", "2")
    with pytest.raises(ValueError, match=r"--spacing must be an option of train\.yaml;"):
        check("run", "--config_file", "train.yaml", "--spacing", "2")


def test_the_options_of_an_arguments_file_are_checked(check):
    Path("right.json").write_text(json.dumps({"config_file": "train.yaml", "max_epochs": 3}), encoding="utf-8")
    Path("wrong.json").write_text(json.dumps({"config_file": "train.yaml", "max_epoch": 3}), encoding="utf-8")
    check("run", "--args_file", "right.json")
    with pytest.raises(ValueError, match=r"--max_epoch must be an option of train\.yaml"):
        check("run", "--args_file", "wrong.json")


@pytest.mark.parametrize("program", ["pytest", "/bin/monailabel", "monai/bundle.py"])
def test_a_process_of_another_command_is_not_checked(check, program):
    with pytest.raises(ValueError, match="--max_epoch must be an option"):
        check(*BOTH, "--max_epoch", "3")
    check(*BOTH, "--max_epoch", "3", program=program)
    check("ckpt_export", "--max_epoch", "3")


# ---- a user's own file of overrides --------------------------------------------------------------


@pytest.fixture
def own(check):
    """Return a function that checks a run with a file of overrides that lies elsewhere."""
    Path("own").mkdir()

    def run(content: dict) -> None:
        Path("own/mine.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        check("run", "training", "--config_file", "['train.yaml','demo.yaml','own/mine.yaml']")

    return run


@pytest.mark.parametrize(
    "content",
    [
        {"max_epochs": 7, "spacing": 2.0},
        {"train::interval": 2, "train::trainer::amp": True, "train::handlers::0::prefix": "x"},
        {"train": {**TRAIN["train"], "interval": 2, "handlers": []}},
        {"train::trainer": {"_target_": "Other"}},  # another component has other arguments
        {"rate": 0.1, "learning_rate": "@rate"},
        {"+train": {"interval": 3}, "mine": "%run"},
    ],
    ids=str,
)
def test_what_the_bundle_has_or_the_file_itself_uses_passes(own, content, capsys):
    own(content)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"max_epoch": 7}, "own/mine.yaml: max_epoch must be an option of .*; did you mean max_epochs?"),
        ({"train::intervall": 2}, "own/mine.yaml: train::intervall must .* did you mean train::interval?"),
        ({"+max_epoch": 7}, "own/mine.yaml: max_epoch must .* did you mean max_epochs?"),
        ({"zzz": 7}, "own/mine.yaml: zzz must .*; what may be changed stands at the top of train.yaml"),
        (
            {"train": {"interval": 2}},
            "own/mine.yaml: train must name what it changes, such as train::interval: 2, .* got one without trainer",
        ),
    ],
    ids=str,
)
def test_a_typo_or_a_section_that_would_lose_something_is_refused(own, content, sentence):
    """MONAI adds the one in silence, and replaces the other, which ends in an error from where it was used."""
    with pytest.raises(ValueError, match=sentence.replace("+", r"\+").replace("?", r"\?")):
        own(content)
