"""Laws of a study's page: one file, well-formed, with every section, that asks no network for anything."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from small_study import FakeRunner, make_results, plan, run, table_of

from tools.study.page import write_page

SECTIONS = ["verdict", "curve", "classes", "tests", "saved", "cost", "data", "commands", "versions"]
EMPTY = {"meta", "br", "link", "img", "input", "hr"}  # elements that are never closed


class Page(HTMLParser):
    """Elements of a page in their order, and its text; refuses an end without its beginning."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page_of(content):
    content |= {"name": "livers <b>& kidneys</b>", "arms": {"scratch": {}, "atlas": {}}, "num_labeled": [1, 2, 4]}
    study = plan(content | {"pretrainings": {}})
    Path("out").mkdir()

    def write(results, missing=0):
        runs = [result.run for result in results]
        return Page(write_page(study, runs, results[: len(results) - missing], "repeat me").read_text(encoding="utf-8"))

    return write


@pytest.fixture
def page(page_of):
    return page_of(
        make_results(lambda arm, count, fold: 0.3 + 0.1 * count + 0.02 * fold + 0.1 * (arm == "atlas"), cases=8)
    )


def test_a_page_has_every_section_once_and_in_order(page):
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == SECTIONS
    assert len(page.ids) == len({*page.ids})


def test_a_page_needs_no_network_and_no_script(page):
    assert "script" not in {tag for tag, _ in page.tags}
    targets = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(target.startswith("#") for target in targets)
    assert "url(http" not in page.text and "@import" not in page.text


def test_names_are_text(page):
    assert "livers <b>& kidneys</b>" in page.text
    assert "b" not in {tag for tag, _ in page.tags}


def test_the_charts_are_part_of_the_page_and_name_arms_and_classes(page):
    assert [tag for tag, _ in page.tags].count("svg") == 2
    for text in ("labeled scans", "scratch", "atlas", "liver", "left kidney"):
        assert text in page.text


def test_references_within_the_charts_lead_somewhere(page):
    used = [attributes[name] for _, attributes in page.tags for name in attributes if name.endswith("href")]
    used += [url for _, attributes in page.tags for url in re.findall(r"url\((#[^)]+)\)", str(attributes))]
    assert used
    assert {name.removeprefix("#") for name in used} <= {*page.ids}


def test_a_page_names_the_arm_to_take_and_how_to_export_and_repeat_it(page):
    assert "Take atlas: it has the highest Dice with 4 labeled scans" in page.text
    assert "python -m tools.export bundle --ckpt_dir out/runs/atlas_n4_fold0_seed0" in page.text
    assert "repeat me" in page.text


def test_what_is_missing_is_said(page_of):
    results = make_results(lambda arm, count, fold: 0.5)
    assert "3 of 30 runs are not finished" in page_of(results, missing=3).text


def test_results_without_any_score_are_said(page_of):
    nothing = {"a": {"liver": float("nan"), "mean": float("nan")}}
    results = [replace(result, dice=nothing) for result in make_results(lambda *_: 0.5)]
    page = page_of(results)
    assert "No test case of the finished runs holds any of the classes." in page.text


def test_one_arm_with_one_label_count_has_a_page(page_of):
    page = page_of(make_results(lambda *_: 0.5, arms=["scratch"], counts=[1], folds=[0]))
    assert "it is the only arm that is finished" in page.text


def test_every_study_leaves_a_page(content):
    run(content, FakeRunner())
    table_of(content)
    page = Page(Path("out/report.html").read_text(encoding="utf-8"))
    assert "python -m monai.bundle run training" in page.text
