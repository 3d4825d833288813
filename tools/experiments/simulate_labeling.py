"""Simulate active learning: how good is an atlas of scans that were chosen one by one, and one of random scans?

python -m tools.experiments.simulate_labeling BUNDLE WEIGHTS DATASET_DIR OUTPUT_DIR [--max_labeled 8] [--num_draws 20]
    [--split test] [--step 3] [--share 0.5] [--override_files configs/small.yaml] [--name value]

BUNDLE is a folder whose network is a `PlanarAtlas`, WEIGHTS are its pretrained ones. Every training scan must have a
label, which counts once the scan is chosen. The nearest neighbors of a voxel in an atlas of several scans are among
those in each of them: so each scan to segment is compared once with each scan to learn from, and what any atlas makes
of it is then no more than a vote.

This differs from the bundle's own training and evaluation, for all arms alike: descriptors are standardized over all
training scans, and a part of the voxels is classified and scored, on the grid of the network, without smoothing.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from scipy.spatial import cKDTree
from tqdm import tqdm

from common.active_learning import CRITERIA, describe_scan, next_scans
from common.cli import InputError
from common.cli.options import FRACTION, POSITIVE_INT
from common.cli.texts import express_texts
from common.data import case_id
from common.planar import PlanarAtlas, VoxelGrid, extract_descriptors, vote
from tools._command import run_command
from tools.study.plan import Job, Run
from tools.study.report import Result, write_files


def simulate_labeling(
    bundle: str,
    weights: str,
    dataset_dir: str,
    output_dir: str,
    *,
    max_labeled: int = 8,
    num_draws: int = 20,
    split: str = "test",
    step: int = 3,
    share: float = 0.5,
    override_files: str = "",
    **options: Any,
) -> str:
    """Compare the criteria of active learning with random scans, over numbers of labeled scans.

    Args:
        bundle: folder of the bundle.
        weights: pretrained weights, beside which their preprocessing lies.
        dataset_dir: folder with a dataset.json.
        output_dir: folder for `results.csv`, `table.md` and `curve.png`.
        max_labeled: labeled scans at most.
        num_draws: random orders. Each criterion goes on from the first scan of each and, as `..._medoid`, begins with
            the medoid.
        split: scans to segment: `test`, or `validation`, those of a fold that are then not learned from.
        step: voxels between those that are classified, along each axis.
        share: of these voxels that are, by chance.
        override_files: configs given last, relative to the bundle, separated by commas.
        options: overrides of the configs, by id.
    """
    for name, count in {"max_labeled": max_labeled, "num_draws": num_draws, "step": step}.items():
        POSITIVE_INT.check(name, count)
    FRACTION.check("share", share)
    files = [name for name in override_files.split(",") if name]
    parser = _parse(Path(bundle), files, weights, {**options, "dataset_dir": dataset_dir})
    cases = parser.get_parsed_content("cases")
    pool = sorted(
        [*cases.labeled("training"), *(cases.validation if split == "test" else [])], key=lambda case: case["image"]
    )
    if len(pool) < max_labeled:
        raise InputError(f"max_labeled must be at most {len(pool)}, the number of training scans, got {max_labeled}")
    atlas, load = parser.get_parsed_content("module"), parser.get_parsed_content("train::preprocessing")

    maps, descriptors, singles = [], [], []
    for case in tqdm(pool, desc="scans to learn from", disable=None):
        item = load(dict(case))
        maps.append(atlas.describe(item["image"]).float())
        descriptors.append(describe_scan(atlas, item["image"]))
        singles.append(copy.deepcopy(atlas))
        singles[-1].add(item["image"], item["label"], case["image"])
    compare = _Comparer(atlas, singles, torch.stack(maps), step, share)
    targets = {}
    for case in tqdm(cases.labeled(split), desc="scans to segment", disable=None):
        item = load(dict(case))
        targets[case_id(case["image"])] = compare(item["image"].as_tensor(), item["label"].as_tensor())

    orders = _orders(torch.stack(descriptors), max_labeled, num_draws)
    names = [name for value, name in sorted(cases.labels.items()) if value != 0]
    job = Job("simulated", "training", Path(output_dir), (), {})
    known: dict[frozenset[int], dict[str, dict[str, float]]] = {}
    results = []
    for (arm, draw), order in tqdm(orders.items(), desc="orders", disable=None):
        for count in range(1, max_labeled + 1):
            chosen = frozenset(order[:count])
            if chosen not in known:
                known[chosen] = {
                    case: _row(target.score(sorted(chosen), atlas), names) for case, target in targets.items()
                }
            results.append(Result(Run(arm, count, (0, draw), job, job, None), known[chosen], training_seconds=0.0))
    runs, notes = [result.run for result in results], f"Labeled scans are chosen from {len(pool)}."
    title = f"chosen from {len(pool)} scans"
    return write_files(output_dir, results, runs, "Simulated labeling", "random", notes, title)


@dataclass(frozen=True)
class _Comparison:
    """Comparison of a scan to segment with each of `S` scans to learn from.

    Args:
        truth: class of each of `N` voxels that are near to the organs of one of them.
        num_beyond: number of other voxels of each class.
        is_near: which voxels are near to the organs of each of them, of shape `(S, N)`.
        distances: of the `K` nearest neighbors of each voxel in each of them, of shape `(S, N, K)`.
        labels: classes of these neighbors, likewise.
    """

    truth: torch.Tensor
    num_beyond: torch.Tensor
    is_near: torch.Tensor
    distances: torch.Tensor
    labels: torch.Tensor

    def score(self, chosen: list[int], atlas: PlanarAtlas) -> torch.Tensor:
        """Return the Dice of each class in the segmentation by some of the scans; NaN where it is absent."""
        is_near = self.is_near[chosen].any(dim=0)
        distances, labels = (
            values[chosen][:, is_near].transpose(0, 1).flatten(1) for values in (self.distances, self.labels)
        )
        distances, order = distances.topk(atlas.num_neighbors, largest=False)
        shares = vote(labels.gather(1, order), distances, atlas.num_classes, atlas.voting)
        shares[:, 0] *= atlas.background_weight
        found = torch.zeros_like(self.truth)
        found[is_near] = shares.argmax(dim=1)
        right, size = (
            values.bincount(minlength=atlas.num_classes) for values in (found[found == self.truth], self.truth)
        )
        size = size + self.num_beyond
        dice = 2 * right / (found.bincount(minlength=atlas.num_classes) + size)
        return dice.where(size > 0, torch.nan)[1:]


class _Comparer:
    """Compare scans to segment with those to learn from.

    Args:
        atlas: without a scan.
        singles: atlases of one scan each.
        maps: descriptors of places in these scans, by which all are standardized, of shape `(S, F, ...)`.
    """

    def __init__(
        self, atlas: PlanarAtlas, singles: Sequence[PlanarAtlas], maps: torch.Tensor, step: int, share: float
    ) -> None:
        self.atlas = atlas
        self.std, self.mean = torch.std_mean(maps.transpose(0, 1).flatten(1), dim=1, correction=0)
        self.references = [self._features(single.descriptors, single.centers) for single in singles]
        self.labels = [single.labels for single in singles]
        self.organs = [cKDTree(single.centers[single.labels > 0]) for single in singles]
        self.step = step
        self.share = share
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, image: torch.Tensor, label: torch.Tensor) -> _Comparison:
        grid = VoxelGrid(image.shape[1:], self.step)
        indices = grid.indices()
        indices = indices[torch.rand(len(indices), generator=self.generator) < self.share]
        centers, truth = grid.centers(indices).float(), label[0].long()[indices.unbind(1)]
        radius = float("inf") if self.atlas.search_radius is None else self.atlas.search_radius
        is_near = torch.stack(
            [torch.from_numpy(tree.query(centers, distance_upper_bound=radius)[0]).isfinite() for tree in self.organs]
        )
        is_place = is_near.any(dim=0)
        centers = centers[is_place]
        queries = self._features(extract_descriptors(image, self.atlas.descriptor, centers), centers)
        distances, labels = [], []
        for references, classes in zip(self.references, self.labels, strict=True):
            nearest = torch.cdist(queries, references).topk(self.atlas.num_neighbors, largest=False)
            distances.append(nearest.values)
            labels.append(classes[nearest.indices].long())
        return _Comparison(
            truth[is_place],
            truth[~is_place].bincount(minlength=self.atlas.num_classes),
            is_near[:, is_place],
            torch.stack(distances),
            torch.stack(labels),
        )

    def _features(self, descriptors: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        scaled = (descriptors.float() - self.mean) / self.std.where(self.std > 0, 1)
        return torch.cat((scaled, self.atlas.position_weight * centers), dim=1)


def _parse(bundle: Path, override_files: Sequence[str], weights: str, options: Mapping[str, Any]) -> ConfigParser:
    """Read the training of a bundle, which takes the preprocessing from beside the pretrained weights."""
    parser = ConfigParser()
    parser.read_config([bundle / "configs" / "train.yaml", bundle / "configs" / "evaluate.yaml"])
    unknown = [name for name in options if name not in parser]
    if unknown:
        raise InputError(f"options must be those that `--help` shows or ids of the configs, got {unknown}")
    for name in override_files:
        parser.update(ConfigParser.load_config_file(bundle / name))
    paths = {"pretrained": weights, "ckpt_dir": str(Path(weights).parent), "bundle_root": str(bundle)}
    options = {"fusion_weight": 0.0, **paths, **options}  # votes alone are simulated
    parser.update({"labels": "$@cases.labels", "module": "$@transfer", **express_texts(options)})
    return parser


def _orders(descriptors: torch.Tensor, max_labeled: int, num_draws: int) -> dict[tuple[str, int], list[int]]:
    """Return the scans in the order in which each arm has them labeled in each draw."""
    orders: dict[tuple[str, int], list[int]] = {}
    for draw in range(num_draws):
        orders["random", draw] = random.Random(draw).sample(range(len(descriptors)), max_labeled)
        for criterion in CRITERIA:
            first = orders["random", draw][0]
            chosen = next_scans(descriptors, [first], max_labeled, criterion)
            orders[criterion, draw] = [first, *(index for index, _ in chosen)][:max_labeled]
            chosen = next_scans(descriptors, [], max_labeled, criterion)
            orders[f"{criterion}_medoid", draw] = [index for index, _ in chosen]
    return orders


def _row(dice: torch.Tensor, names: Sequence[str]) -> dict[str, float]:
    return {**dict(zip(names, dice.tolist(), strict=True)), "mean": float(dice.nanmean())}


if __name__ == "__main__":
    run_command(simulate_labeling)
