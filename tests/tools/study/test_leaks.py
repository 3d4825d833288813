"""Laws of the guard against leaks: what is scored is in no pool of training, whatever its file is called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import pytest
from small_study import plan

from common.data import read_cases, write_phantoms
from tools.study.leaks import check_leaks


@pytest.fixture
def study(content):
    """A study of four labeled phantoms, two test phantoms and two without a label."""
    Path("data").rmdir()
    write_phantoms("data", num_training=4, num_test=2, num_unlabeled=2, size=24)
    return plan(content)


def add(name, source, **voxels):
    """List another file with the voxels of a scan as unlabeled."""
    image = nib.load(source)
    content = json.loads(Path("data/dataset.json").read_text(encoding="utf-8"))
    nib.save(nib.Nifti1Image(voxels.get("data", image.dataobj), image.affine), Path("data", name))
    content["unlabeled"].append({"image": name})
    Path("data/dataset.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_list_without_a_leak_passes(study):
    check_leaks(study)


@pytest.mark.parametrize("name", ["new_patient.nii.gz", "new_patient.nii"])
def test_a_test_scan_under_another_name_is_refused_by_both_names(study, name):
    test = read_cases("data").test[0]["image"]
    add(name, test)
    with pytest.raises(ValueError, match=rf"{name}: must not be learned from \(unlabeled, .*{Path(test).name}, which"):
        check_leaks(study)


def test_a_validation_scan_under_another_name_is_refused_in_the_fold_that_holds_it_out(study):
    image = read_cases("data", fold=1).validation[0]["image"]
    add("new_patient.nii.gz", image)
    folds = [fold for fold in range(4) if read_cases("data", fold).validation[0]["image"] != image]
    check_leaks(replace(study, folds=folds))
    with pytest.raises(ValueError, match=rf"new_patient.*unlabeled, fold 1.*{Path(image).name}.*\(validation\); take"):
        check_leaks(study)


def test_a_scan_of_the_same_size_with_other_voxels_is_none(study):
    test = read_cases("data").test[0]["image"]
    add("new_patient.nii.gz", test, data=nib.load(test).get_fdata() + 1)
    check_leaks(study)


def test_a_single_scan_that_serves_for_both_is_left_to_the_runs_that_warn_of_it(content):
    Path("data").rmdir()
    write_phantoms("data", num_training=1, num_test=1, num_unlabeled=1, size=24)
    check_leaks(replace(plan(content), folds=[0], split="validation"))
