"""Laws of the fitted preprocessing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.data import fit_preprocessing, intensity_range
from common.transforms import ClipAndNormalize

CT = ["CT"]


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


def test_the_spacing_is_the_largest_of_the_three_median_spacings(cases):
    assert fit_preprocessing(cases).spacing == 4.0  # medians 1, 1 and 4
    assert fit_preprocessing(cases, spacing=2.5).spacing == 2.5


def test_the_spacing_follows_the_axes_of_the_patient_not_of_the_file(write_scan, tmp_path):
    """The same scan with permuted axes must count along the same axis."""
    turned = np.array([[0.0, 0, 5, 0], [1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    image = np.arange(24.0).reshape(2, 3, 4)
    cases = [{"image": write_scan("first.nii.gz", image, (5.0, 1.0, 2.0))}]
    cases += 2 * [{"image": write_scan("second.nii.gz", image, affine=turned)}]
    assert fit_preprocessing(cases).spacing == 5.0
    cases = [{"image": write_scan("third.nii.gz", image, (1.0, 5.0, 2.0))}, *cases[1:], cases[0]]
    assert fit_preprocessing(cases).spacing == 5.0


def test_the_clip_values_are_percentiles_of_the_intensities_inside_the_labels(cases, tmp_path):
    fitted = fit_preprocessing(cases, percentiles=(0, 100), modality=CT)
    assert fitted.clip == [1.0, 7.0]
    assert fit_preprocessing(cases, percentiles=(25, 75), modality=CT).clip == [2.5, 5.5]
    assert fit_preprocessing(cases, modality=CT).clip == pytest.approx([1.03, 6.97])
    assert fit_preprocessing(cases, clip=[-155, 295], normalization="range").clip == [-155.0, 295.0]


def test_without_labels_they_are_percentiles_inside_the_body(cases, tmp_path):
    images = [{"image": case["image"]} for case in cases]
    assert fit_preprocessing(images, percentiles=(0, 100), modality=CT).clip == [1.0, 1000.0]
    assert fit_preprocessing(images, air=3, percentiles=(0, 100), modality=CT).clip == [4.0, 1000.0]


def test_what_has_no_unit_is_clipped_to_percentiles_of_each_scan(cases):
    """The clip values of one MR scan left nothing of others, whose intensities were a hundredth or a hundredfold."""
    assert fit_preprocessing(cases, modality=["T1w"]).clip is None
    assert fit_preprocessing(cases).clip is None
    assert fit_preprocessing(cases, air=-500).clip is not None  # without a name, what has air is a CT
    assert fit_preprocessing(cases, modality=["T1w"], clip=[1, 2]).clip == [1.0, 2.0]
    scan = torch.randn(1, 9, 8, 7, generator=torch.Generator().manual_seed(0))
    scan[0, 0, 0, 0] = 1e4  # beyond a percentile of each
    normalize = ClipAndNormalize(None)
    for scale, offset in ((0.01, 0.0), (100.0, 7.0), (1e4, -300.0)):
        torch.testing.assert_close(normalize(scale * scan + offset), normalize(scan), atol=1e-3, rtol=0)
    assert intensity_range(np.r_[np.zeros(9999), 5.0]) == (0.0, 5.0)  # little is left to see beside the background
    assert intensity_range(np.full(9, np.nan)) == (0.0, 1.0)


def test_small_intensities_keep_their_digits(write_scan, tmp_path):
    """Clip values of 0.0012 and 0.0034 became 0.0 and 0.0."""
    image = np.linspace(0.0012, 0.0034, 60).reshape(3, 4, 5)
    fitted = fit_preprocessing([{"image": write_scan("image.nii.gz", image)}], percentiles=(0, 100), modality=CT)
    assert fitted.clip == pytest.approx([0.0012, 0.0034], rel=1e-4)


def test_the_record_tells_what_was_fitted_and_to_what(cases):
    labels = {0: "background", 1: "liver"}
    record = fit_preprocessing(cases, air=-500, modality=["CT"], labels=labels, settings={"seed": 1})
    assert (record.fitted_on, record.modality, record.air, record.normalization) == (3, ["CT"], -500, "zscore")
    assert record.labels == labels and record.settings == {"seed": 1}
    assert fit_preprocessing(cases).labels == {}
    with pytest.raises(ValueError, match="labels must name the background and at least one class"):
        fit_preprocessing(cases, labels={0: "background"})


def test_the_numbers_beside_weights_are_taken_over_but_not_the_labels(cases, tmp_path):
    weights = tmp_path / "pretrained" / "wta.pt"
    pretrained = fit_preprocessing(cases, air=-500, spacing=2.0, clip=(-9, 9))
    pretrained.save_beside(weights)
    labels = {0: "background", 1: "liver"}
    record = fit_preprocessing([], weights, labels=labels)
    assert (record.spacing, record.clip, record.air) == (pretrained.spacing, pretrained.clip, pretrained.air)
    assert record.labels == labels and record.fitted_on == 3
    assert fit_preprocessing([], weights, spacing=2, clip=[-9, 9]).spacing == 2.0
    for name, value in (("spacing", 3.0), ("clip", [-9, 10])):
        with pytest.raises(ValueError, match=rf"{name} must be that of the pretraining of .*wta.pt, .*, got"):
            fit_preprocessing([], weights, **{name: value})


@pytest.mark.parametrize("weights", [None, "null", "random"])
def test_without_pretrained_weights_the_numbers_are_fitted(cases, weights):
    assert fit_preprocessing(cases, weights).spacing == 4.0


def test_missing_numbers_are_refused_by_name(tmp_path):
    (tmp_path / "wta.pt").write_bytes(b"weights")
    with pytest.raises(FileNotFoundError, match=r"record.json: the record of the weights must lie beside them"):
        fit_preprocessing([], tmp_path / "wta.pt")


def test_what_cannot_be_fitted_is_refused(cases, tmp_path, write_scan):
    constant = [{"image": write_scan("constant.nii.gz", np.ones((6, 3, 3)))}]
    empty = [{**constant[0], "label": write_scan("empty.nii.gz", np.zeros((6, 3, 3)))}]
    for data, options, message in (
        ([], {}, "data must hold at least one case, got none; look at .* dataset.json"),
        (empty, {}, "data must hold voxels inside a label or above air .* got none; are the labels empty?"),
        (constant, {"air": 5}, r"data must hold voxels inside a label or above air \(5\), got none"),
        (
            constant,
            {"modality": CT},
            r"clip must be two increasing intensities, got \[1.0, 1.0\]; are the images constant",
        ),
        (cases, {"clip": [3, -3]}, r"clip must be two increasing intensities, got \[3, -3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_preprocessing(data, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("is_labeled", [True, False])
def test_voxels_that_are_not_finite_do_not_count_since_loading_refuses_or_replaces_them(
    cases, tmp_path, write_scan, value, is_labeled
):
    image = np.full((4, 5, 6), 40.0, np.float32)
    records = []
    for name in ("sound", "broken"):
        scan = {"image": write_scan(f"{name}.nii.gz", image, (1.5, 1.0, 3.0))}
        records.append(fit_preprocessing([cases[0], {**cases[1], **scan} if is_labeled else scan], air=-500))
        image[0, 0, :2] = value
    assert records[0].spacing == records[1].spacing
    np.testing.assert_allclose(records[0].clip, records[1].clip, atol=1)


def test_the_normalization_is_that_of_the_pretraining(cases, tmp_path):
    weights = tmp_path / "weights.pt"
    fit_preprocessing(cases, normalization="range").save_beside(weights)
    assert fit_preprocessing(cases, weights, normalization="range").normalization == "range"
    with pytest.raises(ValueError, match=r"normalization must be that of the pretraining of .*, range, got zscore"):
        fit_preprocessing(cases, weights, normalization="zscore")


# ---- several channels ----------------------------------------------------------------------------


@pytest.fixture
def channels(write_scan):
    """Three cases of two channels, each channel a file; what is 100 in the first channel lies outside the body."""
    rng, cases = np.random.default_rng(0), []
    for index in range(3):
        body = rng.random((6, 7, 8)) < 0.5
        volumes = [np.where(body, rng.normal(size=body.shape), 100), 1000 * rng.random(body.shape)]
        files = [write_scan(f"case_{index}_{channel:04d}.nii.gz", volume) for channel, volume in enumerate(volumes)]
        cases.append({"image": files, "label": write_scan(f"label_{index}.nii.gz", np.uint8(body))})
    return cases


@pytest.mark.parametrize("has_labels", [True, False])
def test_each_channel_is_fitted_as_it_would_be_alone(channels, has_labels):
    cases = channels if has_labels else [{"image": case["image"]} for case in channels]
    clip = fit_preprocessing(cases, modality=["CT", "CT late"]).clip
    alone = [
        fit_preprocessing([{**case, "image": case["image"][channel]} for case in cases], modality=CT).clip
        for channel in (0, 1)
    ]
    assert clip == alone
    swapped = [{**case, "image": case["image"][::-1]} for case in cases]
    assert fit_preprocessing(swapped, modality=["CT late", "CT"]).clip == alone[::-1]
    assert fit_preprocessing(cases, modality=["CT", "T2w"]).clip == [alone[0], None]


def test_air_is_told_in_the_ct_and_holds_for_all_channels(write_scan):
    uptake = np.arange(1.0, 211).reshape(5, 6, 7)
    files = [write_scan("pet.nii.gz", uptake), write_scan("ct.nii.gz", -10 * uptake)]
    fitted = fit_preprocessing([{"image": files}], air=-500, modality=["PET", "CT"], percentiles=(0, 100))
    assert fitted.clip == [None, [-490, -10]]
    scan = torch.stack([torch.as_tensor(uptake), torch.as_tensor(-10 * uptake)]).float()
    for channel, clip in enumerate(fitted.clip):
        alone = ClipAndNormalize(clip)(scan[channel : channel + 1])
        assert torch.equal(ClipAndNormalize(fitted.clip)(scan)[channel : channel + 1], alone)


def test_given_clip_values_hold_for_all_channels_or_for_each(channels, tmp_path):
    two = {"modality": ["CT", "PET"]}
    assert fit_preprocessing(channels, clip=[-1, 1], **two).clip == [[-1, 1], [-1, 1]]
    fitted = fit_preprocessing(channels, clip=[[-1, 1], [0, 5]], **two)
    assert fitted.clip == [[-1, 1], [0, 5]]
    fitted.save_beside(tmp_path / "wta.pt")
    assert fit_preprocessing([], tmp_path / "wta.pt", clip=[[-1, 1], [0, 5]], **two).clip == fitted.clip
    assert fit_preprocessing([], tmp_path / "wta.pt", **two).clip == fitted.clip
    with pytest.raises(ValueError, match=r"clip must be that of the pretraining of .*wta.pt"):
        fit_preprocessing([], tmp_path / "wta.pt", clip=[-1, 1], **two)
    one = [{**case, "image": case["image"][0]} for case in channels]
    assert fit_preprocessing(one, clip=[[-1, 1]]).clip == [-1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"clip": [[0, 1], [0, 1], [0, 1]]},
            "clip must be one pair of intensities, or one for each of 2 channels, got",
        ),
        ({"clip": [[0, 1], [2, 1]]}, r"clip of PET must be two increasing intensities, got \[2, 1\]"),
        ({"modality": ["CT"]}, r"case_0_0000.nii.gz: number of channels must be 1 \(CT\), got 2; name each channel"),
    ],
    ids=str,
)
def test_clip_values_and_images_of_other_channels_are_refused(channels, options, message):
    with pytest.raises(ValueError, match=message):
        fit_preprocessing(channels, **{"modality": ["CT", "PET"], **options})
