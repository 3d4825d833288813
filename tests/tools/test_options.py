"""Laws of the command that shows the options of a bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tools.options import option_table, options

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/inference.yaml"))
every_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


def rows_of(text: str) -> dict[str, dict[str, list[str]]]:
    """Return the cells of each row of a page, by file and option."""
    sections = [section.splitlines() for section in text.split("## ")[1:]]
    return {
        heading: {line.split("`")[1]: line.strip("| ").split(" | ") for line in lines if line.startswith("| `")}
        for heading, *lines in sections
    }


@every_bundle
def test_the_written_tables_are_those_of_the_tool(bundle):
    """After a change of an option: `python -m tools.options --write`."""
    written = (bundle / "docs" / "options.md").read_text(encoding="utf-8")
    assert written.startswith(f"# Options of {bundle.name}\n")
    assert written.endswith(f"\n\n{options(bundle.name)}\n")


@every_bundle
def test_a_row_has_the_default_of_the_config_and_an_example_that_fits(bundle):
    for file, rows in rows_of(options(bundle.name)).items():
        content = yaml.safe_load((bundle / file).read_text(encoding="utf-8"))
        base = content if "settings" in content else yaml.safe_load((bundle / "configs/train.yaml").read_text())
        table = option_table(base)
        assert rows and rows.keys() == content.keys() & table.keys()
        for name, (_, default, wanted, example, meaning) in rows.items():
            is_of_record = str(content[name]).startswith("$@record.option(")
            expected = "that of the training" if is_of_record else content[name]
            assert yaml.safe_load(default.strip("`")) == expected
            assert wanted and meaning == table[name].meaning
            given = yaml.safe_load(example.strip("`"))
            table[name].kind.check(name, None if given == "$None" else given)


def test_one_file_is_shown_alone():
    assert [*rows_of(options("fnet_wtacae_stl"))] == [
        f"configs/{name}.yaml" for name in ("pretrain", "train", "evaluate", "inference")
    ]
    rows = rows_of(options("fnet_wtacae_stl", file="inference"))["configs/inference.yaml"]
    assert rows["tile_size"][1:4] == ["`96`", "a whole number from 1, or three of them", "`64`"]
    assert {*rows_of(options("fnet_wtacae_stl", file="evaluate"))["configs/evaluate.yaml"]} >= {"split", "num_pictures"}


def test_all_tables_are_written(tmp_path, monkeypatch):
    for bundle in BUNDLES:
        shutil.copytree(bundle / "configs", tmp_path / bundle.name / "configs")
        (tmp_path / bundle.name / "docs").mkdir()
    monkeypatch.setattr("tools._command._BUNDLES", tmp_path)
    assert options(write=True).splitlines() == [
        str(tmp_path / bundle.name / "docs" / "options.md") for bundle in BUNDLES
    ]
    for bundle in BUNDLES:
        text, written = ((root / "docs" / "options.md").read_bytes() for root in (bundle, tmp_path / bundle.name))
        assert text == written


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"bundle must be one of context_restoration_unet, .*, got ''"),
        ({"bundle": "unet"}, "bundle must be one of .*, got 'unet'"),
        (
            {"bundle": "fnet_wtacae_mtl", "file": "pretrain"},
            "file must be one of train, evaluate, inference, got 'pretrain'",
        ),
        ({"write": "yes"}, "write must be True or False, got 'yes'"),
    ],
)
def test_refuses_in_one_sentence(given, message):
    with pytest.raises((FileNotFoundError, TypeError, ValueError), match=message):
        options(**given)
