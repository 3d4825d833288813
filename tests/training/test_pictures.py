"""Laws of the pictures of scans and of learning curves: they are drawn, and drawing changes nothing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from matplotlib.layout_engine import ConstrainedLayoutEngine
from monai.data import MetaTensor
from picture_checks import assert_seen_as_by_a_radiologist, is_picture
from PIL import Image

from common.data import label_color
from common.training import OverlayPictures, save_curves, save_overlay


def volume(array, affine=None, **meta):
    affine = np.eye(4) if affine is None else affine
    return MetaTensor(torch.as_tensor(np.asarray(array, np.float32))[None], affine=torch.as_tensor(affine), meta=meta)


@pytest.fixture
def figures(monkeypatch):
    """Figures that are drawn, in place of files."""
    found = []
    monkeypatch.setattr("common.training.pictures.save_figure", lambda figure, path: found.append(figure))
    return found


@pytest.mark.parametrize(
    ("draw", "axes"),
    [
        (
            lambda path: save_overlay(volume(np.random.rand(6, 5, 4)), {"label": torch.ones(1, 6, 5, 4)}, path),
            [0, 1, 2],
        ),
        (lambda path: save_overlay(volume(np.random.rand(6, 1, 4)), {"label": torch.ones(1, 6, 1, 4)}, path), [1]),
    ],
    ids=["overlay", "coronal image"],
)
def test_the_patients_right_is_on_the_left_and_the_front_or_the_head_up(tmp_path, figures, draw, axes):
    draw(tmp_path / "picture.png")
    assert_seen_as_by_a_radiologist(figures[0], axes)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.png"])
def test_a_2d_image_is_drawn_as_the_one_plane_that_it_is_and_stays_as_it_was(tmp_path, write_scan, monkeypatch, name):
    pixels = np.random.default_rng(0).integers(0, 255, (9, 8)).astype(np.uint8)
    affine = np.diag([-1.0, -1, 1, 1])
    path = write_scan("a.nii.gz", pixels, affine=affine)
    if name == "a.png":
        path = str(tmp_path / name)
        Image.fromarray(pixels.T).save(path)
    before = Path(path).read_bytes()
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axes, image, **options: drawn.append(np.asarray(image)))
    pred = MetaTensor(torch.zeros(1, 9, 8, 1), torch.as_tensor(affine), meta={"filename_or_obj": path})
    engine = Engine(lambda engine, batch: batch)
    OverlayPictures(tmp_path).attach(engine)
    engine.run([[{"pred": pred}]])
    assert len(drawn) == 1 and np.array_equal(drawn[0], pixels[::-1, ::-1].T)
    assert is_picture(tmp_path / ("a_overlay.png" if name == "a.png" else "a.png"))
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("affine", [np.diag([1.0, 1, 1, 1]), np.diag([-2.0, -1, 3, 1])])
def test_an_overlay_is_drawn_for_each_case_up_to_the_limit(tmp_path, write_scan, affine):
    outputs = []
    for index in range(3):
        path = write_scan(f"case_{index}.nii.gz", np.random.default_rng(0).normal(size=(9, 8, 7)), affine=affine)
        label = MetaTensor(torch.zeros(1, 9, 8, 7), affine=torch.as_tensor(affine), meta={"filename_or_obj": path})
        label[:, 2:4, 3:6, 3:5] = index
        outputs.append({"pred": label, "label": label})
    engine = Engine(lambda engine, batch: batch)
    OverlayPictures(tmp_path / "pictures", {0: "background", 1: "liver"}, max_cases=2).attach(engine)
    engine.run([outputs])
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["case_0.png", "case_1.png"]
    assert is_picture(tmp_path / "pictures" / "case_1.png")


def test_without_a_limit_every_case_has_its_picture(tmp_path, monkeypatch):
    """Beyond a thousand cases there was none, so that their outputs never counted as whole."""
    drawn: list[Any] = []
    monkeypatch.setattr("common.training.pictures.save_overlay", lambda *arguments, **_: drawn.append(arguments[2]))
    monkeypatch.setattr("common.training.pictures.original_image", lambda output: None)
    names = [f"case_{index}.nii.gz" for index in range(1001)]
    outputs = [{"pred": MetaTensor(torch.zeros(1, 1, 1, 1), meta={"filename_or_obj": name})} for name in names]
    engine = Engine(lambda engine, batch: batch)
    OverlayPictures(tmp_path).attach(engine)
    engine.run([outputs])
    assert len(drawn) == 1001


def test_a_constant_image_and_missing_numbers_are_drawn_without_an_error(tmp_path):
    save_overlay(volume(np.zeros((4, 5, 6))), {"label": torch.zeros(1, 4, 5, 6)}, tmp_path / "overlay.png")
    rows = [{"epoch": 1, "train_loss": 1.0, "lr_0": 0.1}, {"epoch": 2, "train_loss": float("nan"), "mean_dice": 0.5}]
    save_curves(rows, tmp_path / "curves.png")
    assert is_picture(tmp_path / "overlay.png") and is_picture(tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("modality", "title"),
    [([""], "case"), (["CT"], "case"), (["CT", "PET"], "case, CT"), (["", "PET"], "case, channel 0")],
)
def test_of_several_channels_the_first_is_drawn_and_named(tmp_path, write_scan, monkeypatch, modality, title):
    drawn = []
    save = "common.training.pictures.save_overlay"
    monkeypatch.setattr(save, lambda *arguments, **options: drawn.append((arguments[0], options["title"])))
    volumes = [np.full((9, 8, 7), channel, np.float32) for channel in range(len(modality))]
    files = [write_scan(f"case_{channel:04d}.nii.gz", volume) for channel, volume in enumerate(volumes)]
    whole = write_scan("case.nii.gz", np.stack(volumes, axis=-1))
    for path in (files[0], whole):
        pred = MetaTensor(torch.zeros(1, 9, 8, 7), torch.eye(4), meta={"filename_or_obj": path, "case_id": "case"})
        engine = Engine(lambda engine, batch: batch)
        OverlayPictures(tmp_path, modality=modality).attach(engine)
        engine.run([[{"pred": pred}]])
        image, shown = drawn[-1]
        assert image[0].shape == (9, 8, 7) and not image[0].any() and shown == title


def test_a_row_of_voxels_is_drawn_without_its_outlines(tmp_path):
    """matplotlib draws no contour of a single row, and the segmentation was written but not the report."""
    row = np.ones((1, 1, 8))
    save_overlay(volume(row), {"prediction": torch.as_tensor(row)[None]}, tmp_path / "row.png")
    assert (tmp_path / "row.png").stat().st_size > 0


# ---- sides, places and scales --------------------------------------------------------------------

ORIENTATIONS = [
    "".join(sides) for order in itertools.permutations(("RL", "AP", "SI")) for sides in itertools.product(*order)
]


def patient(codes="RAS", spacing=(2.0, 1.0, 3.0)):
    """Return a scan with a bright spot in the body's right, front, upper corner, which is the label, in any order."""
    array = np.full((30, 40, 20), -1000.0)
    array[5:25, 6:36, 3:18] = 0.0
    spot = np.zeros(array.shape, np.uint8)
    spot[20:24, 30:35, 13:17] = 1
    affine = nib.affines.from_matvec(np.diag(spacing), (-7.0, 11.0, -20.0))
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    image, label = (nib.Nifti1Image(part, affine).as_reoriented(turn) for part in (array + 200 * spot, spot))
    return volume(image.get_fdata(), image.affine), torch.as_tensor(label.get_fdata())[None]


def sides_of(panel):
    """Return the letters of a panel by where they are."""
    names = {(0.97, 0.5): "right", (0.03, 0.5): "left", (0.5, 0.97): "top", (0.5, 0.03): "bottom"}
    return {names[text.get_position()]: text.get_text() for text in panel.texts}


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_letter_stands_at_the_side_where_the_patient_has_it_in_every_orientation(codes, figures):
    image, label = patient(codes)
    save_overlay(image, {"label": label}, "x.png")
    panels = {panel.get_title().split(",")[0]: panel for panel in figures[0].axes if panel.images}
    assert [*panels] == ["sagittal", "coronal", "axial"]
    for name, panel in panels.items():
        shown = panel.images[0].get_array()
        up, across = np.argwhere(shown > 100).mean(axis=0)  # of the spot: right, front and upper
        place = panel.transData.transform((across, up))
        middle = panel.transData.transform((np.array(shown.T.shape) - 1) / 2)
        is_right, is_up = place > middle
        letters = sides_of(panel)
        assert letters["right" if is_right else "left"] == ("A" if name == "sagittal" else "R")
        assert letters["top" if is_up else "bottom"] == ("A" if name == "axial" else "S")
        assert {*letters.values()} == {*{"sagittal": "APIS", "coronal": "LRIS", "axial": "LRAP"}[name]}
        assert is_up and (is_right == (name == "sagittal"))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_title_tells_the_place_of_the_slice_and_its_index_in_the_file(codes, figures):
    image, label = patient(codes)
    save_overlay(image, {"label": label}, "x.png")
    for panel in figures[0].axes:
        if not panel.images:
            continue
        plane, place, index = panel.get_title().split(", ")
        axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
        side, number, _ = place.split()
        own, value = "ijk".index(index[0]), int(index.split(" = ")[1])
        assert codes[own] in ("RL", "AP", "SI")[axis]
        assert (label[0].numpy() > 0).any(axis=tuple(other for other in range(3) if other != own))[value]
        voxel = np.zeros(3)
        voxel[own] = value
        position = nib.affines.apply_affine(image.affine.numpy(), voxel)[axis]
        assert float(number) * (1 if side in "RAS" else -1) == pytest.approx(position, abs=0.05)


def test_what_has_no_orientation_has_no_letters_and_no_place(figures):
    image, label = patient()
    image.meta["is_oriented"] = False
    save_overlay(image, {"label": label}, "x.png")
    for panel in figures[0].axes:
        if panel.images:
            assert len(panel.texts) == 0 and "mm" not in panel.get_title()


def test_a_picture_is_cropped_to_the_body_and_as_wide_as_it_is_in_mm(figures):
    image, label = patient()
    save_overlay(image, {"label": label}, "x.png")
    sagittal, coronal, axial = (panel.images[0] for panel in figures[0].axes if panel.images)
    for picture, (width, height) in ((sagittal, (30, 15)), (coronal, (20, 15)), (axial, (20, 30))):
        shape = picture.get_array().T.shape
        assert width <= shape[0] <= width + 4 and height <= shape[1] <= height + 4
    assert [picture.axes.get_aspect() for picture in (sagittal, coronal, axial)] == [3.0, 1.5, 0.5]


def test_a_finding_beyond_the_body_is_in_the_picture(figures):
    image, label = patient()
    label[:] = 0
    label[0, 28, 38, 19] = 1
    save_overlay(image, {"label": label}, "x.png")
    shape = [panel.images[0].get_array().T.shape for panel in figures[0].axes if panel.images]
    assert shape[2][0] >= 24 and shape[2][1] >= 33


@pytest.mark.parametrize(
    ("low", "spot", "said"),
    [
        (-1000, 40, "window 400, level 40 HU"),  # soft tissue in a CT
        (-1000, 900, None),  # bone
        (0, 40, None),  # no CT
    ],
)
def test_soft_tissue_of_a_ct_has_its_window_and_the_window_is_told(low, spot, said, figures):
    rng = np.random.default_rng(0)
    array = rng.normal(30, 10, (20, 20, 20))
    array[:5] = low
    label = torch.zeros(1, 20, 20, 20)
    label[:, 8:12, 8:12, 8:12] = 1
    array[label[0].numpy() > 0] = spot
    save_overlay(volume(array), {"label": label}, "x.png", unit="HU", title="case")
    low, high = next(panel.images[0].get_clim() for panel in figures[0].axes if panel.images)
    told = figures[0].get_suptitle()
    assert told == f"case; {said}" if said else "window 400" not in told
    assert told.endswith(f"window {high - low:.4g}, level {(high + low) / 2:.4g} HU")


def test_a_label_has_its_color_whatever_else_is_in_the_picture(figures):
    image, label = patient()
    for value in (3, 7):
        save_overlay(image, {"label": label * value}, "x.png", labels={3: "liver", 7: "spleen"})
    both = label * 7
    both[:, 10:14, 10:14, 5:9] = 3
    save_overlay(image, {"label": both}, "x.png", labels={3: "liver", 7: "spleen"})

    def colors(figure):
        (legend,) = figure.legends
        lines = zip(legend.get_texts(), legend.get_lines(), strict=True)
        return {text.get_text(): tuple(line.get_color()) for text, line in lines}

    three, seven, together = map(colors, figures)
    assert together == three | seven and three["liver"] != seven["spleen"]
    assert three["liver"] == pytest.approx([part / 255 for part in label_color(3)])


def test_the_dice_stands_in_the_picture_where_there_is_a_label(tmp_path, write_scan, monkeypatch):
    said = []
    save = "common.training.pictures.save_overlay"
    monkeypatch.setattr(save, lambda *arguments, **options: said.append((options["title"], options["labels"])))
    path = write_scan("case.nii.gz", np.zeros((8, 8, 8), np.float32))
    maps = torch.zeros(2, 8, 8, 8, dtype=torch.long)
    maps[0, :4], maps[1, :2] = 1, 1
    pred, label = (
        MetaTensor(torch.nn.functional.one_hot(each, 3).movedim(-1, 0), meta={"filename_or_obj": path}) for each in maps
    )
    engine = Engine(lambda engine, batch: batch)
    OverlayPictures(tmp_path, {0: "background", 1: "liver", 2: "spleen"}).attach(engine)
    state = engine.run([[{"pred": pred, "label": label}]])
    assert said == [("case, mean Dice 0.667", {1: "liver 0.667", 2: "spleen"})]
    assert state.pictures == {"case": tmp_path / "case.png"}


def test_the_last_digits_of_a_layout_leave_no_trace_in_a_picture(tmp_path, monkeypatch):
    """They differ from process to process, and would move a border from one pixel to the next."""
    torch.manual_seed(0)
    image, segmentation = MetaTensor(torch.randn(1, 39, 33, 30)), torch.zeros(1, 39, 33, 30)
    segmentation[:, 10:30, 8:20, 5:15] = 1
    execute, written = ConstrainedLayoutEngine.execute, []
    for noise in (0.0, 1e-9, -1e-9):

        def solve(engine, figure, noise=noise):
            grids = execute(engine, figure)
            for axes in figure.axes:
                axes._set_position((np.array(axes.get_position(original=True).bounds) + noise).tolist())
            return grids

        monkeypatch.setattr(ConstrainedLayoutEngine, "execute", solve)
        save_overlay(image, {"segmentation": segmentation}, tmp_path / f"{noise}.png", labels={1: "organ"})
        written.append((tmp_path / f"{noise}.png").read_bytes())
    assert written[1:] == written[:-1]
