"""Pseudo-labels on phantoms: from the probabilities of teachers to what a training reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data import case_id, fingerprint, fit_preprocessing, make_record, read_cases, read_volume, write_phantoms
from tools.pseudo_labels import make_pseudo_labels
from tools.unlabeled import list_unlabeled

FOLD = {"num_labeled": 2, "num_folds": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, num_training=12, num_test=1, num_unlabeled=0)
    return folder


@pytest.fixture
def truth(data):
    """Return the true label of each scan whose label stays unused, by its name."""
    unused = read_cases(data, **FOLD).unlabeled
    names = [case["image"].rsplit("/", 1)[1].removesuffix(".nii.gz") for case in unused]
    return {name: case["image"].replace("imagesTr", "labelsTr") for name, case in zip(names, unused, strict=True)}


def teach(folder, truth, sure=0.9, wrong=None):
    """Write the probabilities of a teacher that finds the truth, but for what `wrong` makes of it."""
    folder.mkdir()
    for name, path in truth.items():
        volume = nib.load(path)
        label = np.asarray(volume.dataobj).astype(int)
        label = label if wrong is None else wrong(name, label)
        steps = np.full((*label.shape, 5), round(65535 * (1 - sure) / 4), np.uint16)
        np.put_along_axis(steps, label[..., None], round(65535 * sure), axis=-1)
        image = nib.Nifti1Image(steps, volume.affine)
        image.header.set_slope_inter(1 / 65535, 0)
        nib.save(image, folder / f"{name}_probabilities.nii.gz")
    return str(folder)


def test_a_teacher_that_knows_all_gives_the_labels_themselves(data, truth, tmp_path):
    make_pseudo_labels(str(data), [teach(tmp_path / "teacher", truth)], str(tmp_path / "pseudo"), **FOLD)
    cases = read_cases(data, **FOLD, pseudo_labels=tmp_path / "pseudo")
    assert [case["image"] for case in cases.pseudo_labeled] == [case["image"] for case in cases.unlabeled]
    for case in cases.pseudo_labeled:
        label, header, _ = read_volume(case["label"])
        expected, grid, _ = read_volume(case["image"].replace("imagesTr", "labelsTr"))
        assert np.array_equal(label, expected)
        assert np.allclose(header.affine, grid.affine)
        assert np.allclose(read_volume(case["confidence"])[0], 0.9, atol=0.02)


def test_what_the_teachers_have_learned_from_the_student_has_too(data, truth, tmp_path, capsys):
    """A student of teachers of another fold was scored in silence on scans whose labels they had seen."""
    case = read_cases(data, **FOLD).validation[0]
    teachers = [teach(tmp_path / name, truth) for name in ("atlas", "network", "earlier")]
    for folder, learned in zip(teachers, (["1"], [fingerprint(case["image"])], []), strict=False):
        report = {"cases": [], **({"learned_from": learned} if learned else {})}
        (Path(folder) / "report.json").write_text(json.dumps(report), encoding="utf-8")
    make_pseudo_labels(str(data), teachers, str(tmp_path / "pseudo"), **FOLD)
    cases = read_cases(data, **FOLD, pseudo_labels=tmp_path / "pseudo")
    for make in (make_record, fit_preprocessing):
        record = make(data=cases.supervised(), labels=cases.labels, modality=cases.modality)
        assert {*record.learned_from.values()} == {"1", fingerprint(case["image"])}
    (Path(teachers[0]) / "report.json").write_text("[]", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"atlas/report\.json: must be the report of an inference, got .*; run it again"
    ):
        make_pseudo_labels(str(data), teachers, str(tmp_path / "pseudo"), **FOLD)


def test_a_scan_without_an_organ_is_left_out_and_named(data, truth, tmp_path, capsys):
    odd = sorted(truth)[0]
    teacher = teach(
        tmp_path / "teacher", truth, wrong=lambda name, label: label * (label != 1) if name == odd else label
    )
    make_pseudo_labels(str(data), [teacher], str(tmp_path / "pseudo"), **FOLD)
    assert f"{odd}: left out, has no" in capsys.readouterr().out
    used = read_cases(data, **FOLD, pseudo_labels=tmp_path / "pseudo").pseudo_labeled
    assert len(used) == len(truth) - 1
    assert not any(odd in case["image"] for case in used)


def test_what_teachers_do_not_agree_on_is_less_sure_and_the_unsure_counts_for_nothing(data, truth, tmp_path):
    teachers = [
        teach(tmp_path / "one", truth),
        teach(tmp_path / "two", truth, sure=0.6, wrong=lambda name, label: np.roll(label, 1, axis=0)),
    ]
    make_pseudo_labels(str(data), teachers, str(tmp_path / "pseudo"), **FOLD, keep=0.7, limit=1000.0)
    content = json.loads((tmp_path / "pseudo/pseudo_labels.json").read_text())
    assert all(0.5 < case["details"]["agreement"] < 1 for case in content["cases"])
    for case in read_cases(data, **FOLD, pseudo_labels=tmp_path / "pseudo").pseudo_labeled:
        label, confidence = read_volume(case["label"])[0], read_volume(case["confidence"])[0]
        shares = [(confidence[label == value] > 0).mean() for value in np.unique(label) if value]
        assert 0.5 < np.mean(shares) < 0.95


def test_without_weights_the_teacher_counts_whose_organs_are_alike_in_size(data, truth, tmp_path, capsys):
    """The other one finds organs of any size, and is as sure of them."""
    steps = iter(np.random.default_rng(0).permutation(len(truth)))

    def swell(name, label):
        for _ in range(2 * next(steps)):
            label = np.where(label > 0, label, np.roll(label, 1, axis=0))
        return label

    teachers = [teach(tmp_path / "one", truth, sure=0.8), teach(tmp_path / "two", truth, sure=0.9, wrong=swell)]
    shares = {}
    for weights in (None, [0.5, 0.5]):
        make_pseudo_labels(str(data), teachers, str(tmp_path / "pseudo"), **FOLD, weights=weights, limit=1000.0)
        used = read_cases(data, **FOLD, pseudo_labels=tmp_path / "pseudo").pseudo_labeled
        labels = [(read_volume(case["label"])[0], read_volume(truth[case_id(case["image"])])[0]) for case in used]
        shares[weights is None] = np.mean([(found == true).mean() for found, true in labels])
    assert shares[True] > 0.99 > shares[False]
    assert "teacher 1: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: shutil.rmtree(folder), "must hold probabilities, got none"),
        (lambda folder: sorted(folder.iterdir())[0].unlink(), "must hold the scans of"),
        (
            lambda folder: sorted(folder.iterdir())[0].rename(folder / "other_probabilities.nii.gz"),
            "must hold the scans of",
        ),
    ],
)
def test_teachers_that_have_not_segmented_the_same_scans_are_refused(data, truth, tmp_path, spoil, sentence):
    teachers = [teach(tmp_path / name, truth) for name in ("one", "two")]
    spoil(tmp_path / "two")
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        make_pseudo_labels(str(data), teachers, str(tmp_path / "pseudo"), **FOLD)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keep": 80}, "keep must be a number from 0 to 1, got 80"),
        ({"limit": 0.0}, "limit must be"),
        ({"weights": [-1.0]}, "weights must be"),
        ({"weights": [1.0, 1.0]}, "must have one weight each"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(data, truth, tmp_path, options, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        make_pseudo_labels(str(data), teach(tmp_path / "one", truth), str(tmp_path / "pseudo"), **FOLD, **options)


def test_a_teacher_of_other_classes_is_refused(data, truth, tmp_path):
    folder = teach(tmp_path / "one", truth)
    for file in (tmp_path / "one").iterdir():
        volume = nib.load(file)
        nib.save(nib.Nifti1Image(np.asarray(volume.dataobj, np.float32)[..., :4], volume.affine), file)
    with pytest.raises(ValueError, match=r"must have the probabilities of 5 classes, got 4; take a teacher"):
        make_pseudo_labels(str(data), folder, str(tmp_path / "pseudo"), **FOLD)


def test_pseudo_labels_of_another_fold_are_refused(data, truth, tmp_path):
    make_pseudo_labels(str(data), [teach(tmp_path / "teacher", truth)], str(tmp_path / "pseudo"), **FOLD)
    with pytest.raises(ValueError, match=r"must be of unlabeled scans, got .*, a (labeled|validation) case"):
        read_cases(data, **{**FOLD, "fold": 1}, pseudo_labels=tmp_path / "pseudo")


def test_the_unlabeled_scans_of_a_fold_are_listed(data, truth, tmp_path):
    list_unlabeled(str(data), str(tmp_path), num_unlabeled=3, **FOLD)
    listed = json.loads((tmp_path / "scans.json").read_text())
    assert listed == read_cases(data, **FOLD).unlabeled[:3]
    with pytest.raises(ValueError, match=r"num_unlabeled must be .*, got -3"):
        list_unlabeled(str(data), str(tmp_path), num_unlabeled=-3, **FOLD)
    with pytest.raises(ValueError, match="must have unlabeled scans, got none"):
        list_unlabeled(str(data), str(tmp_path), num_folds=4)
