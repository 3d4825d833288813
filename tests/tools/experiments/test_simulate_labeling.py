"""Laws of the simulation of labeling."""

from __future__ import annotations

import copy
import csv
from pathlib import Path

import pytest
import torch

from common.data import fit_preprocessing, read_cases, write_phantoms
from common.planar import GrayValueDifference, PlanarAtlas, fit_field_of_view
from tools.experiments.simulate_labeling import _Comparer, simulate_labeling

BUNDLE = str(Path(__file__).resolve().parents[3] / "bundles" / "planar_heatmap_descriptor")
FEW = {"max_labeled": 2, "num_draws": 2, "step": 2, "share": 1.0, "override_files": "configs/demo.yaml"}


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(1, 9, 8, 7)
    label[:, 2:5, 2:5, 1:6] = 1
    label[:, 5:8, 3:7, 2:5] = 2
    return label + 0.7 * torch.randn(label.shape, generator=generator), label


@pytest.mark.parametrize("chosen", [[1], [0, 2], [0, 1, 2, 3]])
def test_scans_that_are_compared_one_by_one_vote_as_their_atlas_does(chosen):
    descriptor = GrayValueDifference(out_channels=6)
    empty = PlanarAtlas(
        descriptor, 3, step=1, num_neighbors=5, position_weight=2.0, search_radius=0.5, background_weight=1.5
    )
    singles, together = [copy.deepcopy(empty) for _ in range(4)], copy.deepcopy(empty)
    for index, single in enumerate(singles):
        single.add(*draw(index), str(index))
        if index in chosen:
            together.add(*draw(index), str(index))
    as_they_are = torch.tensor([[-1.0, 1.0]]).expand(6, 2)[None]  # of mean 0 and standard deviation 1
    image, label = draw(9)
    dice = _Comparer(empty, singles, as_they_are, step=1, share=1.0)(image, label).score(chosen, empty)
    found = together(image[None])[0].argmax(dim=0)
    for value in (1, 2):
        ours, true = found == value, label[0] == value
        assert dice[value - 1] == pytest.approx(float(2 * (ours & true).sum() / (ours.sum() + true.sum())))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Phantoms, and where the weights of a descriptor that learns nothing would lie."""
    folder = tmp_path_factory.mktemp("simulation")
    scans = write_phantoms(folder / "scans", num_training=4, num_test=2, num_unlabeled=0, size=32)
    images = read_cases(scans, num_folds=2).pretraining(include_val_images=True)
    weights = folder / "descriptors.pt"
    fit_preprocessing(images, air=-500, spacing=8.0, clip=[-160, 300]).save_beside(weights)
    fit_field_of_view(images, [240, 160, 160], clip=[-160, 300]).save_beside(weights)
    return str(weights), str(scans)


def test_criteria_go_on_from_the_first_random_scan_or_begin_with_the_medoid(phantoms, tmp_path):
    options = {"descriptor": "gvdiff_centered", "num_folds": 2}
    table = simulate_labeling(BUNDLE, *phantoms, str(tmp_path), **FEW, **options)
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "table.md", "curve.png"}
    assert "Labeled scans are chosen from 4." in table
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    dice = {(row["arm"], row["num_labeled"], row["seed"], row["case"]): row["mean"] for row in rows}
    assert len(dice) == 5 * 2 * 2 * 2
    for arm, count, draw, case in dice:
        if not arm.endswith("medoid") and count == "1":
            assert dice[arm, count, draw, case] == dice["random", count, draw, case]
        if arm.endswith("medoid"):
            assert dice[arm, count, draw, case] == dice[arm, count, "0", case]


def test_refuses_more_labeled_scans_than_there_are_and_unknown_options(phantoms, tmp_path):
    for options, message in (
        ({"max_labeled": 5, "num_folds": 2}, "max_labeled must be at most 4, the number of training scans, got 5"),
        ({"draws": 3}, r"options must be those that `--help` shows or ids of the configs, got \['draws'\]"),
        ({"share": 2.0}, "share must be"),
    ):
        with pytest.raises(ValueError, match=message):
            simulate_labeling(BUNDLE, *phantoms, str(tmp_path), **{**FEW, **options})
