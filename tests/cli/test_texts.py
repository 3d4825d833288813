"""Laws of options that are text: what arrives is what was written."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow

from common.cli.texts import express_texts, text_expression

COMMAND = str(Path(monai.bundle.__file__).with_name("__main__.py"))
TEXTS = [  # what `fire`, YAML, Python or MONAI's parser takes for something else, and plain paths
    *("2024", "2024.10", "1e5", "0x10", "True", "yes", "2024-10-01", "[a]", "a,b", "{a: b}", "'a'", "a b", "~", "ä"),
    *("a#b", "#3", "/data/patient #3", "a@b", "/data/a@b#c", "@x", "@seed", "$x", "$seed", "$1 + 1", "a::b", "%seed"),
    *("$@ckpt_dir", "$__import__('os').mkdir('evaluated')", "back\\slash#", "it's", 'a"b', "$'a'", "@bundle_root"),
]
CONFIG = {
    "bundle_root": "bundle",
    "ckpt_dir": "$@bundle_root + '/models'",
    "output_dir": "$@bundle_root + '/output'",
    "evaluation_dir": "plain",
    "pretrained": "$@ckpt_dir + '/a.pt'",
    "num_labeled": None,
    "learning_rate": "$1 / 4",
    "seed": 1,
    "settings": {"_target_": "common.cli.check_options"},
    "report": "$@output_dir + '/report.json'",
    "initialize": ["@settings"],
    "run": [],
}


@pytest.fixture
def deliver(tmp_path, monkeypatch):
    """Return a function that starts a run with some words, and files of overrides, and returns its config."""
    monkeypatch.chdir(tmp_path)
    Path("bundle/configs").mkdir(parents=True)
    Path("bundle/configs/metadata.json").write_text("{}", encoding="utf-8")
    Path("bundle/configs/train.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")

    def start(*words: str, **files: dict[str, Any]) -> ConfigParser:
        paths = ["bundle/configs/train.yaml"]
        for name, content in files.items():
            Path(f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
            paths += [f"{name}.json"] if name != "arguments" else []
        if "arguments" in files:
            words = (*words, "--args_file", "arguments.json")
        monkeypatch.setattr(sys, "argv", [COMMAND, "run", "--config_file", str(paths), *words])
        started = []
        monkeypatch.setattr(ConfigWorkflow, "run", lambda workflow: started.append(workflow.parser))
        monai.bundle.run(**_read(words, paths))
        return started[0]

    return start


def _read(words: tuple[str, ...], paths: list[str]) -> dict[str, Any]:
    """Read a command line as `python -m monai.bundle run` does."""
    import fire

    read: dict[str, Any] = {}
    fire.Fire(lambda **options: read.update(options), ["--config_file", str(paths), *words])
    return {**read, "logging_file": False}


@pytest.mark.parametrize("text", TEXTS)
def test_text_on_a_command_line_arrives_as_it_was_typed(deliver, text):
    config = deliver(f"--output_dir={text}", "--seed", "3")
    assert config.get_parsed_content("output_dir") == text
    assert config.get_parsed_content("report") == f"{text}/report.json"
    assert config.get_parsed_content("settings")["seed"] == 3
    assert not Path("evaluated").exists()


@pytest.mark.parametrize("text", TEXTS)
def test_text_in_an_arguments_file_arrives_as_it_was_written(deliver, text):
    config = deliver(arguments={"output_dir": text, "pretrained": text})
    assert config.get_parsed_content("report") == f"{text}/report.json"
    assert config.get_parsed_content("pretrained") == text and not Path("evaluated").exists()


@pytest.mark.parametrize(
    "text", [text for text in TEXTS if text not in ("$@ckpt_dir", "%seed", "@seed", "@bundle_root")]
)
def test_text_in_a_users_own_file_arrives_as_it_was_written(deliver, text):
    config = deliver(own={"output_dir": text})
    assert config.get_parsed_content("report") == f"{text}/report.json" and not Path("evaluated").exists()


def test_a_folder_of_models_beside_a_hash_is_found_through_the_expressions_of_the_bundle(deliver):
    config = deliver("--ckpt_dir", "run #1")
    assert config.get_parsed_content("pretrained") == "run #1/a.pt"


def test_an_expression_of_a_config_file_that_names_an_option_stays_one_and_so_does_any_of_a_number(deliver):
    own = {"output_dir": "$@ckpt_dir + '/mine'", "evaluation_dir": "@output_dir", "learning_rate": "$3 / 4"}
    config = deliver("--ckpt_dir", "a#b", "--seed", "$2 + 3", own=own)
    assert config.get_parsed_content("evaluation_dir") == "a#b/mine"
    assert (config.get_parsed_content("learning_rate"), config.get_parsed_content("seed")) == (0.75, 5)


@pytest.mark.parametrize("null", ["$None", "None", "null"])
def test_null_is_one_where_an_option_may_be_null_and_a_folder_elsewhere(deliver, null):
    config = deliver("--pretrained", null, "--num_labeled", "$None", "--output_dir", null)
    assert config.get_parsed_content("pretrained") is None and config.get_parsed_content("num_labeled") is None
    assert config.get_parsed_content("output_dir") == null
    assert deliver(own={"pretrained": None}).get_parsed_content("pretrained") is None
    assert deliver("--pretrained", "random").get_parsed_content("pretrained") == "random"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "None"), (["a"], r"\['a'\]"), ({"a": 1}, r"{'a': '?1'?}"), (True, "True"), ("", "''")]
)
def test_what_is_no_text_in_a_file_is_refused_by_the_name_of_the_option(deliver, value, shown):
    with pytest.raises(RuntimeError) as raised:
        deliver(own={"output_dir": value})
    assert isinstance(raised.value.__cause__, TypeError)
    assert re.fullmatch(f"output_dir must be a path, got {shown}", str(raised.value.__cause__))


def test_a_folder_that_breaks_the_address_of_the_tracking_is_refused(deliver):
    with pytest.raises(RuntimeError) as raised:
        deliver(
            "--ckpt_dir",
            "a#b",
            "--save_execute_config",
            "False",
            "--tracking",
            "mlflow",
            own={"output_dir": "@ckpt_dir"},
        )
    assert "output_dir must have none of # ? % with --tracking, got 'a#b'" in str(raised.value.__cause__)


def test_without_a_command_line_a_hash_is_refused(deliver, monkeypatch):
    """MONAI Label gives overrides to the workflow itself, and the parser has forgotten what they were."""
    monkeypatch.setattr(sys, "argv", ["monailabel"])
    files = ["bundle/configs/train.yaml"]
    workflow = ConfigWorkflow(files, logging_file=False, output_dir="a#b")
    with pytest.raises(RuntimeError) as raised:
        workflow.initialize()
    assert "output_dir must have no '#', which MONAI reads as '::', got 'a::b'" in str(raised.value.__cause__)
    ConfigWorkflow(files, logging_file=False, output_dir=text_expression("a#b")).initialize()


@pytest.mark.parametrize("text", [*TEXTS, "\udcff", "a\nb", "%::a", "@#a"])
def test_an_expression_of_a_text_has_its_value(text):
    config = ConfigParser(
        {"output_dir": text_expression(text), "other": "$[@output_dir]", **express_texts({"weights": text})}
    )
    assert config.get_parsed_content("other") == [text] and config.get_parsed_content("weights") == text
