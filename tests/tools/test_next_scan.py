"""Laws of the command that orders the unlabeled scans."""

import json
import re

import numpy as np
import pytest
import torch

from common.active_learning import ScanDescriber
from tools.next_scan import next_scan


@pytest.fixture
def scans(write_scan, tmp_path, monkeypatch):
    """Six scans of 0 to 5 everywhere, described by just that; number 2 has a label."""
    for index in range(6):
        write_scan(f"data/images/case_{index}.nii.gz", np.full((6, 6, 6), index, np.float32))
    write_scan("data/labels/case_2.nii.gz", np.ones((6, 6, 6), np.uint8))
    names = [f"images/case_{index}.nii.gz" for index in range(6)]
    content = {
        "training": [{"image": names[2], "label": "labels/case_2.nii.gz"}],
        "unlabeled": [names[index] for index in (5, 0, 1, 3, 4)],
    }
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(content), encoding="utf-8")

    class Describer(ScanDescriber):
        channels = 1

        def __init__(self, *arguments):
            self.arguments = arguments

        def __call__(self, path):
            return torch.tensor([float(re.search(r"case_(\d)", path)[1])])

    monkeypatch.setattr("common.active_learning.load_describer", Describer)
    return tmp_path / "data"


def order(text):
    return [int(number) for number in re.findall(r"^\d+\. .*case_(\d)\.nii\.gz", text, flags=re.M)]


def test_the_scans_of_a_data_set_come_in_the_order_of_the_criterion(scans):
    said = next_scan("bundle", str(scans), count=2, criterion="k_center")
    assert said.startswith("1 labeled and 5 unlabeled scans; label next, by k_center:\n1. ")
    assert order(said) == [5, 0]
    assert "case_5.nii.gz (distance 3.00)" in said and "case_0.nii.gz (distance 2.00)" in said
    assert sorted(order(next_scan("bundle", str(scans), count=100))) == [0, 1, 3, 4, 5]
    said = next_scan("bundle", str(scans), count=1)
    assert "label next, by k_medoids:" in said and order(said) == [5]


def test_a_folder_of_images_and_one_of_labels_give_the_same(scans):
    whole = next_scan("bundle", str(scans))
    assert order(next_scan("bundle", str(scans / "images"), labels=str(scans / "labels"))) == order(whole)


def test_without_labels_the_medoid_is_first(scans, tmp_path):
    (tmp_path / "none").mkdir()
    said = next_scan("bundle", str(scans / "images"), labels=str(tmp_path / "none"), count=1)
    assert said.splitlines()[1].endswith("case_2.nii.gz (the medoid of all)")


def test_refuses_what_it_does_not_know_and_a_data_set_without_a_choice(scans):
    for options, message in (
        ({"count": 0}, "count must be a whole number from 1, got 0"),
        ({"criterion": "random"}, "criterion must be one of k_medoids, k_center, got 'random'"),
        ({"labels": "nowhere"}, "labels must be a folder"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            next_scan("bundle", str(scans), **options)
    content = json.loads((scans / "dataset.json").read_text(encoding="utf-8"))
    (scans / "dataset.json").write_text(json.dumps({"training": content["training"]}), encoding="utf-8")
    with pytest.raises(ValueError, match="must hold an unlabeled scan, got 1, all labeled"):
        next_scan("bundle", str(scans))


def test_a_folder_with_a_file_for_each_channel_is_listed_by_scans(scans, write_scan, monkeypatch):
    monkeypatch.setattr("common.active_learning.load_describer.channels", 2)
    for index in range(4):
        for channel in (0, 1):
            write_scan(f"data/pairs/case_{index}_{channel:04d}.nii.gz", np.zeros((6, 6, 6)))
    monkeypatch.setattr(
        "common.active_learning.load_describer.__call__",
        lambda self, scan: torch.tensor([float(re.search(r"case_(\d)", scan[0])[1])]),
    )
    said = next_scan("bundle", str(scans / "pairs"), labels=str(scans / "labels"), criterion="k_center")
    assert said.startswith("1 labeled and 3 unlabeled scans") and "case_0_0000.nii.gz (distance 2.00)" in said
