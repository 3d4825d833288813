"""Laws of the options of a command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import yaml

from common.cli import command_line
from common.cli.command_line import check_command_line, read_command_line, read_texts, written_command

COMMAND = str(Path(monai.bundle.__file__).with_name("__main__.py"))
TRAIN = {
    "max_epochs": 3,
    "learning_rate": 0.1,
    "train": {"interval": 1, "trainer": {"_target_": "Trainer"}, "handlers": []},
    "output_dir": ".",
    "parts": {"first": 1},
    "sum": "$sum(@parts.values())",
    "initialize": [],
    "run": [],
    "training": "%run",
}
PRETRAIN = {
    "spacing": 1.0,
    "train": {},
    "initialize": [],
    "run": [],
}  # another workflow, for which an override beside it may be, too
TEXTS = ("output_dir",)
DEMO = {"spacing": 6.0, "train::interval": 2, "train::handlers": [{"_target_": "Handler"}], "+run": []}


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return a function that checks the command line `python -m monai.bundle` with some arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "explain_errors", lambda: None)  # it changes the hooks of this process
    Path("train.yaml").write_text(yaml.safe_dump(TRAIN), encoding="utf-8")
    Path("demo.yaml").write_text(yaml.safe_dump(DEMO), encoding="utf-8")
    Path("pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN), encoding="utf-8")

    def check(*words: str, program: str = COMMAND) -> dict[str, Any] | None:
        monkeypatch.setattr(sys, "argv", [program, *words])
        arguments = read_command_line(TEXTS)
        if arguments is not None:
            check_command_line(arguments)
        return arguments

    return check


BOTH = ("run", "training", "--config_file", "['train.yaml','demo.yaml']")


def test_a_command_is_told_as_it_was_written(monkeypatch):
    monkeypatch.setattr(sys, "argv", [COMMAND, "run", "training", "--output_dir", "a b"])
    assert written_command() == "python -m monai.bundle run training --output_dir 'a b'"
    monkeypatch.setattr(sys, "argv", ["pytest", "run"])
    assert written_command() is None


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
        {"learning_rate": "$sum(@train::rates)", "train::rates": [0.1]},
        {"+parts": {"second": 2}},  # used as a whole
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
            "own/mine.yaml: train must be a whole section, .* without handlers, trainer; name .* train::interval: 2",
        ),
    ],
    ids=str,
)
def test_a_typo_or_a_section_that_would_lose_something_is_refused(own, content, sentence):
    """MONAI adds the one in silence, and replaces the other, which ends in an error from where it was used."""
    with pytest.raises(ValueError, match=sentence.replace("+", r"\+").replace("?", r"\?")):
        own(content)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"train#intervall": 2}, r"train::intervall must .* did you mean train::interval\?"),
        ({"+train": {"intervall": 2}}, r"train::intervall must .* did you mean train::interval\?"),
        ({"train": {**TRAIN["train"], "handlers": [], "intervall": 2}}, r"train::intervall must .* train::interval\?"),
        ({"+train": {"trainer": {"amp": True}}}, r"train::trainer must be .* as train::trainer::amp: True"),
        ({"train#trainer": {"amp": True}}, r"train::trainer must be .* as train::trainer::amp: True"),
        ({"train": {"interval": 2}}, r"train must be a whole section, .* such as train::interval: 2"),
        ({"max_epoch": 7}, r"max_epoch must be an option of .*; did you mean max_epochs\?"),
    ],
    ids=str,
)
@pytest.mark.parametrize("folder", [".", "own"])
def test_a_typo_is_refused_at_any_depth_and_wherever_the_file_lies(check, folder, content, sentence):
    """A user's own file that lay beside the configs of the bundle was not looked at."""
    Path(folder).mkdir(exist_ok=True)
    path = Path(folder, "mine.yaml")
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{path}: {sentence}"):
        check("run", "training", "--config_file", f"['train.yaml','demo.yaml','{path}']")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"max_epoch": 7}, r"--max_epoch must be an option of .*; did you mean --max_epochs\?"),
        ({"train#intervall": 2}, r"--train::intervall must .* did you mean --train::interval\?"),
        ({"train": {"interval": 2}}, r"--train must be a whole section, .* such as train::interval: 2"),
        ({"train": {**TRAIN["train"], "handler": []}}, r"--train::handler must be an option of"),
        ({"+train": {"interval": 2}}, r"\+train must stand in a config file"),
        ({"run_id": "trainin"}, r"run_id must be one of run, training, got 'trainin'"),
    ],
    ids=str,
)
def test_an_arguments_file_is_checked_like_a_users_own_file(check, content, sentence):
    Path("arguments.json").write_text(json.dumps({"config_file": "train.yaml", **content}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{sentence}"):
        check("run", "--args_file", "arguments.json")


def test_a_file_beside_the_complete_one_may_be_for_another_workflow_too(check):
    check("run", "--config_file", "['pretrain.yaml','demo.yaml']")
    Path("own").mkdir()
    Path("demo.yaml").rename("own/demo.yaml")
    with pytest.raises(ValueError, match=r"own/demo\.yaml: spacing must be an option of train\.yaml"):
        check("run", "--config_file", "['train.yaml','own/demo.yaml']")


def test_the_complete_file_comes_first(check):
    with pytest.raises(ValueError, match=r"config_file must begin with a complete file, got demo.* write train\.yaml"):
        check("run", "training", "--config_file", "['demo.yaml','train.yaml']")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--max_epochs", "None"), r"max_epochs must be a value, got None, .* write '\$None' for null"),
        (("--+train::handlers", "[]"), r"\+train::handlers must stand in a config file"),
        (
            ("folder",),
            "init_id must be one of run, training, got 'folder'; a path with blanks wants quotes",
        ),
        (("--output_dir",), "output_dir must be given a value, got none"),
        (("--output_dir", "--max_epochs", "3"), "output_dir must be given a value, got none"),
        (("--output-dir", "-"), "output_dir must be given a value, got none"),
    ],
)
def test_what_monai_leaves_out_or_takes_for_something_else_is_refused(check, words, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        check("run", "training", *words, "--config_file", "train.yaml")


# ---- options that are text -----------------------------------------------------------------------

TYPED = [
    *("2024", "2024.10", "1e5", "0x10", "1_000", "True", "None", "2024-10-01", "[a]", "a,b", "{a: b}", "'a'", '"a"'),
    *("a#b", "#3", "$x", "$None", "@x", "a@b", "%x", "a b", "~", "ä", "\\", "a\nb", "/data/x", "-1"),
]


@pytest.mark.parametrize("text", TYPED)
def test_an_argument_that_is_text_is_kept_as_it_was_typed(check, text):
    """`fire` made numbers, lists and truth values of folders, and cut `a#b` off at what is a comment in Python."""
    for words in (("--output_dir", text), (f"--output_dir={text}",), (f"--output-dir={text}",)):
        assert check("run", "training", "--config_file", "train.yaml", *words)["output_dir"] == text


@pytest.mark.parametrize("text", TYPED)
@pytest.mark.parametrize("name", ["mine.yaml", "mine.json"])
def test_a_value_of_a_file_that_is_text_is_kept_as_it_was_written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(json.dumps({"output_dir": text}), encoding="utf-8")  # as YAML, too
    assert read_texts(path, TEXTS) == {"output_dir": text}


@pytest.mark.parametrize("text", ["2024", "2024.10", "1e5", "010", "1_000", "yes", "True", "2024-10-01", "12:30"])
def test_text_without_quotes_is_text_in_yaml(tmp_path, text):
    """YAML makes 2024.1 of the folder 2024.10, and a date of 2024-10-01."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"output_dir: {text}\nother: 3\n", encoding="utf-8")
    assert read_texts(path, TEXTS) == {"output_dir": text}
    path.write_text("output_dir: null\n", encoding="utf-8")
    assert read_texts(path, TEXTS) == {"output_dir": None}
