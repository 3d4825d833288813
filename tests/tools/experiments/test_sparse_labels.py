"""Copies of a data set in which a part of the slices is labeled."""

from __future__ import annotations

import numpy as np
import pytest

from common.data import read_cases, read_volume, write_phantoms
from tools.experiments.sparse_labels import IGNORE, label_slices, sparsify


@pytest.mark.parametrize("every", [1, 2, 4, 7])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_of_so_many_slices_is_labeled_as_it_was(every, axis):
    label = np.zeros((20, 20, 20), np.uint8)
    label[4:16, 4:16, 4:16] = 1
    sparse = label_slices(label, every, axis)
    labeled = np.moveaxis(sparse, axis, 0) != IGNORE
    slices = labeled.all(axis=(1, 2))
    assert (slices == labeled.any(axis=(1, 2))).all()
    assert slices.sum() == len(range((every - 1) // 2, 12, every))
    assert (sparse[sparse != IGNORE] == label[sparse != IGNORE]).all()
    assert np.moveaxis(label, axis, 0)[slices].any(axis=(1, 2)).all()


def test_a_scan_without_a_class_has_no_labeled_slice():
    assert (label_slices(np.zeros((4, 4, 4)), 2) == IGNORE).all()


def test_the_copy_is_a_data_set_whose_test_cases_are_whole(tmp_path):
    write_phantoms(tmp_path / "whole", num_training=5, num_test=1, num_unlabeled=1)
    sparsify(str(tmp_path / "whole"), str(tmp_path / "sparse"), every=4)
    whole, sparse = read_cases(tmp_path / "whole"), read_cases(tmp_path / "sparse")
    assert [case["ignore"] for case in sparse.training] == len(sparse.training) * [IGNORE]
    assert len(sparse.training) == len(whole.training)
    for case, original in zip(sparse.training, whole.training, strict=True):
        label, truth = read_volume(case["label"])[0], read_volume(original["label"])[0]
        assert 0.6 < (label == IGNORE).mean() < 1
        assert (label[label != IGNORE] == truth[label != IGNORE]).all()
        assert (read_volume(case["image"])[0] == read_volume(original["image"])[0]).all()
    assert (read_volume(sparse.test[0]["label"])[0] == read_volume(whole.test[0]["label"])[0]).all()
    with pytest.raises(ValueError, match="every must be 1 or more, got 0"):
        sparsify(str(tmp_path / "whole"), str(tmp_path / "other"), every=0)
