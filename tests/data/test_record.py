"""Laws of the record that lies beside weights."""

from __future__ import annotations

import hashlib
import json

import itk
import nibabel as nib
import numpy as np
import pytest

from common.data import (
    Record,
    body_channel,
    check_weights,
    fingerprint,
    fit_preprocessing,
    load_record,
    make_record,
)

LABELS = {0: "background", 1: "Leber (ü)", 2: "$os.system('x')"}
NUMBERS = {"spacing": (1, 1.5, 3), "clip": (-100, 200), "organ": "body"}


def test_what_is_stored_is_what_is_loaded(tmp_path):
    stored = make_record(labels=LABELS, modality=["CT"], settings={"seed": 3, "organ": "body"}, **NUMBERS)
    assert stored.spacing == [1.0, 1.5, 3.0] and stored.clip == [-100.0, 200.0]
    for record in (stored, make_record()):
        record.save_beside(tmp_path / "models" / "model.pt")
        assert load_record(tmp_path / "models" / "model.pt") == record
        assert [path.name for path in (tmp_path / "models").iterdir()] == ["record.json"]


def test_the_order_of_the_classes_survives(tmp_path):
    labels = {value: f"class {value}" for value in range(12)}  # as text, 10 would come before 2
    make_record(labels=labels).save_beside(tmp_path / "model.pt")
    assert list(load_record(tmp_path / "model.pt").labels.items()) == list(labels.items())


def test_background_alone_is_refused():
    with pytest.raises(ValueError, match=r"labels must name the background and at least one class, got \{0: 'air'\}"):
        make_record(labels={0: "air"})


@pytest.mark.parametrize("weights", [None, "null", "random"])
def test_without_weights_nothing_is_compared(weights):
    assert make_record(weights, **NUMBERS).organ == "body"


def test_numbers_must_be_those_of_the_pretraining_but_not_modality_and_labels(tmp_path):
    weights = tmp_path / "pretrained" / "unet.pt"
    make_record(labels=LABELS, modality=["CT"], **NUMBERS).save_beside(weights)
    make_record(weights, {0: "background", 1: "tumor"}, ["MRI"], **NUMBERS)
    for name, value, found in (
        ("spacing", None, "None"),
        ("clip", (-100, 201), r"\[-100.0, 201.0\]"),
        ("organ", "brain", "brain"),
    ):
        with pytest.raises(ValueError, match=rf"{name} must be that of the pretraining of .*unet.pt, .*, got {found}"):
            make_record(weights, **{**NUMBERS, name: value})


# ---- what earlier versions left ------------------------------------------------------------------

COMMON = {"modality": "CT", "labels": {"0": "background", "1": "liver"}}
FITTED = {"spacing": 4.0, "clip": [-326.0, 395.0], "air": -500, "normalization": "zscore", "fitted_on": 12}
BY_ORGAN = {"spacing": [3.0, 3.0, 0.0], "clip": None, "organ": "brain"}


@pytest.mark.parametrize(
    ("name", "numbers"), [("preprocessing.json", FITTED), ("preprocessing.json", BY_ORGAN), ("classes.json", {})]
)
def test_records_of_earlier_versions_are_read_and_replaced(tmp_path, name, numbers):
    (tmp_path / name).write_text(json.dumps({**COMMON, **numbers}), encoding="utf-8")
    record = load_record(tmp_path / "model.pt")
    assert record == Record(labels={0: "background", 1: "liver"}, modality=["CT"], **numbers)
    record.save_beside(tmp_path / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert load_record(tmp_path / "model.pt") == record


# ---- damage --------------------------------------------------------------------------------------


def test_a_missing_record_is_refused_by_name(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    for load in (load_record, make_record):
        with pytest.raises(FileNotFoundError, match=r"record.json: the record of the weights must lie beside them"):
            load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"spacing": 4.0', '"spacing": "4"'),
        lambda text: text.replace('"spacing": 4.0', '"spacing": 0.0'),
        lambda text: text.replace('"spacing": 4.0', '"spacing": NaN'),
        lambda text: text.replace('"spacing": 4.0', '"spacing": [1.0, -1.0, 2.0]'),
        lambda text: text.replace('"clip"', '"clamp"'),
        lambda text: json.dumps({**json.loads(text), "clip": [5, 5]}),
        lambda text: json.dumps({**json.loads(text), "clip": [1, 2, 3]}),
        lambda text: json.dumps({**json.loads(text), "labels": ["liver"]}),
        lambda text: json.dumps({**json.loads(text), "labels": {"background": 0}}),
        lambda text: json.dumps({**json.loads(text), "extra": 1}),
    ],
)
def test_a_damaged_record_is_refused_by_name(tmp_path, change):
    make_record(labels=LABELS, spacing=4.0, clip=[1, 2]).save_beside(tmp_path / "model.pt")
    path = tmp_path / "record.json"
    text = path.read_text(encoding="utf-8")
    assert change(text) != text
    path.write_text(change(text), encoding="utf-8")
    with pytest.raises(ValueError, match=r"record.json: must hold the record of the weights, got .*; train again"):
        load_record(tmp_path / "model.pt")


def test_the_record_knows_each_training_scan_by_its_voxels_in_any_format(tmp_path):
    voxels = np.random.RandomState(0).randint(0, 9, (10, 9, 8)).astype(np.int16)
    cases = []
    for patient in ("p1", "p2"):
        (tmp_path / patient).mkdir()
        nib.save(nib.Nifti1Image(voxels + len(cases), np.eye(4)), tmp_path / patient / "image.nii.gz")
        cases.append({"image": str(tmp_path / patient / "image.nii.gz"), "case_id": f"{patient}_image"})
    make_record(data=cases).save_beside(tmp_path / "model.pt")
    known = load_record(tmp_path / "model.pt").learned_from
    itk.imwrite(itk.image_from_array(voxels.T.copy()), str(tmp_path / "copy.nrrd"))
    assert known == {"p1_image": fingerprint(tmp_path / "copy.nrrd"), "p2_image": fingerprint(cases[1]["image"])}
    assert known["p1_image"] != known["p2_image"]


def test_scans_of_the_weights_that_a_training_began_with_are_told_behind_its_own(tmp_path, write_scan):
    rng = np.random.default_rng(0)
    scans = [write_scan(f"set_{index}/case.nii.gz", rng.normal(size=(5, 4, 3)).astype("float32")) for index in range(3)]
    labels, known, previous = {0: "background", 1: "liver"}, [], None
    for index, scan in enumerate([*scans, scans[0]]):
        weights = tmp_path / f"models_{index}" / "model.pt"
        make_record(previous, labels, data=[{"image": scan}]).save_beside(weights)
        known.append(load_record(weights).learned_from)
        previous = weights
    sums = [fingerprint(scan) for scan in scans]
    assert [*known[2].values()] == sums[::-1] and len(known[2]) == 3, "of one name"
    assert [*known[3].values()] == [sums[0], sums[2], sums[1]], "each once"


def test_what_a_pretraining_saw_without_labels_is_no_scan_that_was_learned_from(tmp_path, write_scan):
    scans = [write_scan(f"case_{index}.nii.gz", np.full((5, 4, 3), index, np.float32)) for index in range(2)]
    make_record(data=[{"image": scans[0]}]).save_beside(tmp_path / "encoder.pt")
    labels = {0: "background", 1: "liver"}
    record = make_record(tmp_path / "encoder.pt", labels, data=[{"image": scans[1]}])
    assert record.learned_from == {}
    for weights in (None, "null", "random", tmp_path / "without_record" / "model.pt"):
        assert make_record(None, labels, init_from=weights).learned_from == {}


# ---- several channels ----------------------------------------------------------------------------

CT_PET = {"modality": ["CT", "PET"], "clip": [[-100, 200], [0, 9]]}


def test_a_clip_pair_for_each_channel_is_stored_compared_and_checked(tmp_path):
    weights = tmp_path / "model.pt"
    stored = make_record(**CT_PET)
    assert stored.clip == [[-100.0, 200.0], [0.0, 9.0]]
    stored.save_beside(weights)
    assert load_record(weights) == stored
    make_record(weights, **CT_PET)
    for clip in ([[-100, 200], [0, 10]], [[-100, 200]], [-100, 200]):
        with pytest.raises(ValueError, match=r"clip must be that of the pretraining of .*model.pt"):
            make_record(weights, **{**CT_PET, "clip": clip})
    text = (tmp_path / "record.json").read_text(encoding="utf-8")
    for clip in ([[1, 2], [3, 3]], [[1, 2], [3, 4], [5, 6]], [[1, 2, 3], [4, 5, 6]], []):
        (tmp_path / "record.json").write_text(json.dumps({**json.loads(text), "clip": clip}), encoding="utf-8")
        with pytest.raises(ValueError, match=r"record.json: must hold the record of the weights, got .*; train again"):
            load_record(weights)


def test_one_pair_of_an_earlier_version_holds_for_all_channels(tmp_path):
    make_record(modality=["FLAIR", "T1w"], clip=[1, 2]).save_beside(tmp_path / "model.pt")
    assert load_record(tmp_path / "model.pt").clip == [1.0, 2.0]


def test_weights_of_another_number_or_order_of_channels_are_refused_in_a_sentence(tmp_path):
    weights = tmp_path / "unet.pt"
    make_record(modality=["CT", "PET"]).save_beside(weights)
    for modality, found in (
        (["CT"], r"images of 1 channel \(CT\), got 2 channels \(CT, PET\); train on such images, or leave"),
        (["", "", ""], r"images of 3 channels, got 2 channels \(CT, PET\); train on such images, or leave"),
        (["PET", "CT"], "the channels PET, CT in this order, got CT, PET; list them in dataset.json in that order"),
    ):
        for make in (make_record, lambda weights, modality: fit_preprocessing([], weights, modality=modality)):
            with pytest.raises(ValueError, match=f"unet.pt: weights must be trained on {found}"):
                make(weights, modality=modality)


def test_channels_of_other_names_are_taken_with_a_warning_where_both_are_known(tmp_path, caplog):
    make_record(modality=["T1w"]).save_beside(tmp_path / "unet.pt")
    make_record(tmp_path / "unet.pt", modality=[""])
    assert not caplog.text
    make_record(tmp_path / "unet.pt", modality=["CT"])
    assert "unet.pt: pretrained on 1 channel (T1w), not on 1 channel (CT)" in caplog.text


@pytest.mark.parametrize(
    ("modality", "channel"), [(["MR"], 0), (["PET", "CT", "CT"], 1), (["FLAIR", "T1w"], 0), (["", "ct soft"], 1)]
)
def test_the_body_shows_in_the_first_ct_or_else_in_the_first_channel(modality, channel):
    assert body_channel(modality) == channel


def test_voxels_many_times_larger_than_those_of_the_other_scans_are_warned_of(write_scan, caplog):
    """A scan in tenths of millimeters was learned from without a word."""
    usual = [{"image": write_scan(f"usual_{index}.nii", np.ones((8, 8, 8)), (2.0, 2.0, 3.0))} for index in range(3)]
    make_record(data=usual)
    assert not caplog.text
    make_record(data=[*usual, {"image": write_scan("odd.nii", np.ones((8, 8, 8)), (20.0, 20.0, 30.0))}])
    assert "odd.nii: voxels of 20 x 20 x 30 mm are unlike those of the other scans, 2 x 2 x 3 mm; look" in caplog.text


# ---- the weights to which it belongs ---------------------------------------------------------------


def test_a_record_belongs_to_the_weights_beside_which_it_was_written(tmp_path):
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"trained")
    make_record(organ="body").save_beside(weights)
    check_weights(weights)
    check_weights(weights.rename(tmp_path / "renamed.pt"))
    (tmp_path / "renamed.pt").write_bytes(b"altered")
    with pytest.raises(
        ValueError, match=r"renamed.pt: weights must be those that .*record.json belongs to, got others"
    ):
        check_weights(tmp_path / "renamed.pt")


def test_several_files_of_one_training_share_a_record_and_another_training_replaces_it(tmp_path):
    paths = [tmp_path / f"descriptors_{epoch:04d}.pt" for epoch in (5, 10)]
    for path in paths:
        path.write_bytes(path.name.encode())
        make_record(organ="body").save_beside(path)
    for path in paths:
        check_weights(path)
    make_record(organ="brain").save_beside(paths[1])
    check_weights(paths[1])
    with pytest.raises(ValueError, match=r"descriptors_0005.pt: weights must be those that"):
        check_weights(paths[0])


def test_the_checksums_of_an_export_tell_for_a_record_that_has_none(tmp_path):
    weights = tmp_path / "models" / "model.pt"
    make_record(organ="body").save_beside(weights)
    weights.write_bytes(b"exported")
    sum = hashlib.sha256(b"exported").hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{sum}  models/model.pt\n", encoding="utf-8")
    check_weights(weights)
    weights.write_bytes(b"altered")
    with pytest.raises(ValueError, match=r"model.pt: weights must be those that .*SHA256SUMS belongs to"):
        check_weights(weights)


def test_an_altered_record_of_an_export_is_refused_and_that_of_a_training_in_it_is_not(tmp_path):
    weights = tmp_path / "models" / "model.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"exported")
    make_record(organ="body").save_beside(weights)
    record = weights.with_name("record.json")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  models/{path.name}\n" for path in (weights, record)]
    (tmp_path / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    check_weights(weights)
    record.write_text(record.read_text(encoding="utf-8").replace("body", "brain"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"record.json: the record must be that of the export.*SHA256SUMS has it"):
        check_weights(weights)
    weights.write_bytes(b"trained anew")
    make_record(organ="brain").save_beside(weights)
    check_weights(weights)


def test_weights_that_are_not_there_are_missed_before_their_record(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model.pt: weights must exist; train first$"):
        load_record(tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError, match=r"wta.pt: weights must exist; pretrain first, or pass --pretrained"):
        load_record(tmp_path / "pretrained" / "wta.pt")


def test_an_option_has_the_value_of_the_training_or_a_default():
    record = make_record(settings={"axis": 1, "strides": None})
    assert [record.option("axis", 2), record.option("strides", [2]), record.option("other", 3)] == [1, None, 3]
