"""Laws of the fitted preprocessing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from common.data import fit_preprocessing, load_preprocessing


@pytest.fixture
def cases(write_scan):
    """Three cases: 1, 2, 3 in the foreground of the first, 4, 5, 6 of the second, 7 of the third; 1000 elsewhere."""
    cases = []
    spacings = [(1.0, 2.0, 5.0), (1.5, 1.0, 3.0), (0.5, 1.0, 4.0)]
    for index, (spacing, values) in enumerate(zip(spacings, ([1, 2, 3], [4, 5, 6], [7]), strict=True)):
        image, label = np.full((4, 5, 6), 1000.0, np.float32), np.zeros((4, 5, 6), np.uint8)
        image[1, 2, : len(values)], label[1, 2, : len(values)] = values, 1 + index
        cases.append(
            {
                "image": write_scan(f"image_{index}.nii.gz", image, spacing),
                "label": write_scan(f"label_{index}.nii.gz", label, spacing),
            }
        )
    return cases


def test_the_spacing_is_the_largest_of_the_three_median_spacings(cases, tmp_path):
    assert fit_preprocessing(cases, tmp_path).spacing == 4.0  # medians 1, 1 and 4
    assert fit_preprocessing(cases, tmp_path, spacing=2.5).spacing == 2.5


def test_the_spacing_follows_the_axes_of_the_patient_not_of_the_file(write_scan, tmp_path):
    """The same scan with permuted axes must count along the same axis."""
    turned = np.array([[0.0, 0, 5, 0], [1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    image = np.arange(24.0).reshape(2, 3, 4)
    cases = [{"image": write_scan("first.nii.gz", image, (5.0, 1.0, 2.0))}]
    cases += 2 * [{"image": write_scan("second.nii.gz", image, affine=turned)}]
    assert fit_preprocessing(cases, tmp_path).spacing == 5.0
    cases = [{"image": write_scan("third.nii.gz", image, (1.0, 5.0, 2.0))}, *cases[1:], cases[0]]
    assert fit_preprocessing(cases, tmp_path).spacing == 5.0


def test_the_clip_values_are_percentiles_of_the_intensities_inside_the_labels(cases, tmp_path):
    fitted = fit_preprocessing(cases, tmp_path, percentiles=(0, 100))
    assert fitted.clip == (1.0, 7.0)
    assert fit_preprocessing(cases, tmp_path, percentiles=(25, 75)).clip == (2.5, 5.5)
    assert fit_preprocessing(cases, tmp_path).clip == pytest.approx((1.03, 6.97))
    assert fit_preprocessing(cases, tmp_path, clip=[-155, 295], normalization="range").clip == (-155.0, 295.0)


def test_without_labels_they_are_percentiles_inside_the_body(cases, tmp_path):
    images = [{"image": case["image"]} for case in cases]
    assert fit_preprocessing(images, tmp_path, percentiles=(0, 100)).clip == (1.0, 1000.0)
    assert fit_preprocessing(images, tmp_path, air=3, percentiles=(0, 100)).clip == (4.0, 1000.0)


def test_small_intensities_keep_their_digits(write_scan, tmp_path):
    """Clip values of 0.0012 and 0.0034 became 0.0 and 0.0."""
    image = np.linspace(0.0012, 0.0034, 60).reshape(3, 4, 5)
    fitted = fit_preprocessing([{"image": write_scan("image.nii.gz", image)}], tmp_path, percentiles=(0, 100))
    assert fitted.clip == pytest.approx((0.0012, 0.0034), rel=1e-4)


def test_a_round_trip_keeps_every_number(cases, tmp_path):
    fitted = fit_preprocessing(cases, tmp_path / "new", air=-500, modality="CT", labels={0: "background", 1: "liver"})
    assert load_preprocessing(tmp_path / "new") == fitted
    assert fitted.labels == {0: "background", 1: "liver"}
    assert (fitted.fitted_on, fitted.modality, fitted.air, fitted.normalization) == (3, "CT", -500, "zscore")


def test_like_takes_over_the_numbers_beside_the_weights_but_not_the_labels(cases, tmp_path):
    pretrained = fit_preprocessing(cases, tmp_path / "pretrained", air=-500, spacing=2.0, clip=(-9, 9))
    labels = {0: "background", 1: "liver"}
    fitted = fit_preprocessing([], tmp_path / "models", like=tmp_path / "pretrained" / "wta.pt", labels=labels)
    assert (fitted.spacing, fitted.clip, fitted.air) == (pretrained.spacing, pretrained.clip, pretrained.air)
    assert fitted.labels == labels
    assert load_preprocessing(tmp_path / "models") == fitted


@pytest.mark.parametrize("like", [None, "null", "random"])
def test_without_pretrained_weights_the_numbers_are_fitted(cases, tmp_path, like):
    assert fit_preprocessing(cases, tmp_path, like=like).spacing == 4.0


def test_missing_numbers_are_refused_by_name(tmp_path):
    for call in (load_preprocessing, lambda path: fit_preprocessing([], path, like=path / "wta.pt")):
        with pytest.raises(FileNotFoundError, match=r"preprocessing.json: the fitted preprocessing must lie beside"):
            call(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"spacing": 4.0', '"spacing": "4"'),
        lambda text: text.replace('"spacing": 4.0', '"spacing": 0.0'),
        lambda text: text.replace('"spacing": 4.0', '"spacing": NaN'),
        lambda text: text.replace('"clip"', '"clamp"'),
        lambda text: json.dumps({**json.loads(text), "clip": [5, 5]}),
        lambda text: json.dumps({**json.loads(text), "clip": [1, 2, 3]}),
        lambda text: json.dumps({**json.loads(text), "labels": ["liver"]}),
        lambda text: json.dumps({**json.loads(text), "extra": 1}),
    ],
)
def test_a_damaged_file_is_refused_by_name(cases, tmp_path, change):
    fit_preprocessing(cases, tmp_path)
    path = tmp_path / "preprocessing.json"
    assert change(path.read_text(encoding="utf-8")) != path.read_text(encoding="utf-8")
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"preprocessing.json: must hold the fitted preprocessing, got .*; train again"
    ):
        load_preprocessing(tmp_path)


def test_what_cannot_be_fitted_is_refused(cases, tmp_path, write_scan):
    constant = [{"image": write_scan("constant.nii.gz", np.ones((3, 3, 3)))}]
    empty = [{**constant[0], "label": write_scan("empty.nii.gz", np.zeros((3, 3, 3)))}]
    for data, options, message in (
        ([], {}, "data must hold at least one case, got none; look at .* dataset.json"),
        (empty, {}, "data must hold voxels inside a label or above air .* got none; are the labels empty?"),
        (constant, {"air": 5}, r"data must hold voxels inside a label or above air \(5\), got none"),
        (constant, {}, r"clip must be two increasing intensities, got \[1.0, 1.0\]; are the images constant"),
        (cases, {"clip": [3, -3]}, r"clip must be two increasing intensities, got \[3, -3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_preprocessing(data, tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("is_labeled", [True, False])
def test_voxels_that_are_not_finite_are_refused_by_name(cases, tmp_path, write_scan, value, is_labeled):
    """Wherever they are: a comparison with air is false for them, too."""
    image = np.full((4, 5, 6), 40.0, np.float32)
    image[0, 0, :2] = value
    broken = {"image": write_scan("broken.nii.gz", image, (1.5, 1.0, 3.0))}
    cases[1] = {**cases[1], **broken} if is_labeled else broken
    with pytest.raises(ValueError, match=r"broken.nii.gz: image must have finite intensities, got 2 NaN or Inf"):
        fit_preprocessing(cases, tmp_path, air=-500)


def test_the_normalization_is_that_of_the_pretraining(cases, tmp_path):
    fit_preprocessing(cases, tmp_path, normalization="range")
    weights = str(tmp_path / "weights.pt")
    assert fit_preprocessing(cases, tmp_path / "same", weights, normalization="range").normalization == "range"
    with pytest.raises(ValueError, match=r"normalization must be that of the pretraining of .*, range, got zscore"):
        fit_preprocessing(cases, tmp_path / "other", weights, normalization="zscore")
