"""Laws of the comparison of weights: a teacher alone has its own Dice, and good weights have the better one."""

import nibabel as nib
import numpy as np
import pytest

from common.data import read_cases, write_phantoms
from tools.experiments.pooling import pooling


@pytest.fixture
def data(tmp_path):
    return write_phantoms(tmp_path / "data", num_training=4, num_test=1, num_unlabeled=0, size=24)


def teach(folder, data, shift):
    """Write probabilities of a teacher whose organs are moved by some voxels."""
    folder.mkdir()
    for case in read_cases(data, num_labeled=1).validation:
        label = nib.load(case["label"])
        found = np.roll(np.asarray(label.dataobj), shift, axis=0)
        shares = np.eye(5, dtype=np.float32)[found] * 0.8 + 0.04
        name = case["image"].rsplit("/", 1)[1].removesuffix(".nii.gz")
        nib.save(nib.Nifti1Image(shares, label.affine), folder / f"{name}_probabilities.nii.gz")
    return str(folder)


def test_each_teacher_and_each_way_to_weigh_them_has_its_row(data, tmp_path):
    teachers = [teach(tmp_path / "right", data, 0), teach(tmp_path / "wrong", data, 6)]
    table = pooling(str(data), teachers, weights=[[1, 0.1], [0.1, 1]], powers=[2])
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in table.splitlines() if line.startswith("|")}
    means = {name: row[-1].strip() for name, row in rows.items()}
    assert means["right"] == means["weights 1, 0.1"] == "1.000"
    assert means["wrong"] == means["weights 0.1, 1"] < "0.9"
    assert "spread to the power -2" in means and "over 1 scans" in table


def test_scans_without_a_label_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="must hold probabilities of labeled scans of all teachers, got none; run"):
        pooling(str(data), [str(tmp_path)])
