"""Laws of the guard of an evaluation, in every bundle."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data import Dataset
from workflow_helpers import every_bundle

from common.data import CaseLoader, Cases, Record, fingerprint
from common.training import RefuseLearnedCases
from common.transforms import LoadVolumesd


@pytest.fixture
def scans(write_scan) -> list[str]:
    rng = np.random.default_rng(0)
    return [write_scan(f"case_{index}.nii.gz", rng.normal(size=(6, 5, 4)).astype("float32")) for index in range(3)]


def as_cases(scans, training=(0,), validation=(1,), test=(2,)) -> Cases:
    lists = [
        [{"image": scans[index], "label": scans[index]} for index in part] for part in (training, validation, test)
    ]
    return Cases("phantoms", {0: "background", 1: "liver"}, ["CT"], lists[0], lists[1], [], lists[2])


def evaluate(guard, cases) -> list[str]:
    """Return the files that are evaluated behind a guard."""
    seen: list[str] = []
    engine = Engine(lambda engine, batch: seen.extend(batch["image"].meta["filename_or_obj"]))
    guard.attach(engine)
    engine.run(CaseLoader(Dataset(cases, LoadVolumesd("image"))))
    return seen


def compose(bundle, record: Record, split: str, cases: Cases):
    """Return the guard that a bundle's evaluate.yaml has."""
    config = ConfigParser.load_config_files([bundle / "configs" / name for name in ("train.yaml", "evaluate.yaml")])
    places = [place for place, part in enumerate(config["validate"]["handlers"]) if "RefuseLearned" in part["_target_"]]
    parser = ConfigParser({**config, "record": record, "split": split, "cases": cases})
    return parser.get_parsed_content(f"validate::handlers::{places[0]}")


@every_bundle
@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_scan_that_the_weights_were_trained_on_is_refused_by_name_whatever_its_file_is_called(bundle, split, scans):
    scan = nib.load(scans[0])
    copied = str(scans[2]).replace("case_2.nii.gz", "other.nii")
    nib.save(nib.Nifti1Image(np.asarray(scan.dataobj), scan.affine), copied)  # compressed anew: not at all
    cases = as_cases([*scans, copied], validation=(1, 3), test=(2, 3))
    guard = compose(bundle, Record(learned_from={"case_0": fingerprint(scans[0])}), split, cases)
    with pytest.raises(ValueError, match=r"other\.nii: must not be among .* trained on \(case_0\), .*; take it out"):
        evaluate(guard, cases.labeled(split))


@every_bundle
def test_the_training_cases_may_be_scored_as_such_and_new_ones_always(bundle, scans, caplog):
    cases, record = as_cases(scans), Record(learned_from={"case_0": fingerprint(scans[0])})
    for split, index in (("training", 0), ("validation", 1), ("test", 2)):
        assert evaluate(compose(bundle, record, split, cases), cases.labeled(split)) == [scans[index]]
    assert not [entry for entry in caplog.records if entry.name == "common.training.unseen"]


def test_a_case_that_serves_for_training_and_validation_is_warned_of(scans, caplog):
    cases = as_cases(scans, training=(0,), validation=(0,))
    guard = RefuseLearnedCases(Record(learned_from={"case_0": fingerprint(scans[0])}), "validation", cases)
    assert evaluate(guard, cases.validation) == [scans[0]]
    assert "case_0.nii.gz: serves for training and for validation" in caplog.text


def test_weights_that_do_not_know_what_they_were_trained_on_refuse_nothing(scans):
    assert evaluate(RefuseLearnedCases(Record(), "test", as_cases(scans)), as_cases(scans).test) == [scans[2]]


def test_in_a_run_of_several_processes_that_which_has_the_scan_refuses_it(scans, deal):
    cases = as_cases(scans, test=(2, 0))

    def run():
        guard = RefuseLearnedCases(Record(learned_from={"case_0": fingerprint(scans[0])}), "test", cases)
        try:
            return evaluate(guard, cases.test)
        except ValueError as error:
            return str(error)

    first, second = deal(run)
    assert first == [scans[2]] and "case_0.nii.gz: must not be among" in second
