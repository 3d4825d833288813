"""Data set and plan of nnU-Net."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli import InputError
from common.data import Cases, case_id, image_files

__all__ = ["DATASET", "QUICK", "name_case", "quick_configuration", "write_raw_dataset"]

DATASET = "Dataset001_cases"
QUICK = "3d_quick"  # configuration that `quick_configuration` makes


def write_raw_dataset(cases: Cases, folder: str | Path) -> Path:
    """Write the training cases of a fold as a raw data set of nnU-Net, whose files are links.

    Args:
        cases: of the fold; nnU-Net sees no others.
        folder: nnU-Net's `nnUNet_raw`.

    Returns:
        Folder of the data set.

    Raises:
        ValueError: when the files have different endings, one file holds several channels, or a label leaves something
            open.
    """
    dataset_dir = Path(folder) / DATASET
    images, labels = dataset_dir / "imagesTr", dataset_dir / "labelsTr"
    for place in (images, labels):
        place.mkdir(parents=True, exist_ok=True)
    training = cases.labeled("training")
    ending = _ending(Path(training[0]["label"]))
    for case in training:
        files = [Path(file) for file in image_files(case)]
        if len(files) != len(cases.modality):
            raise InputError(
                f"{files[0]}: image must have one file for each of {len(cases.modality)} channels for nnU-Net, got "
                f"{len(files)}; split it, and list its files"
            )
        if "ignore" in case or "classes" in case:
            raise InputError(
                f"{case['label']}: label must be complete for nnU-Net, got one with voxels or classes that are not "
                "labeled; leave the case out"
            )
        links = {images / f"{name_case(case)}_{channel:04d}{ending}": file for channel, file in enumerate(files)}
        links[labels / f"{name_case(case)}{ending}"] = Path(case["label"])
        for link, file in links.items():
            if _ending(file) != ending:
                raise InputError(f"{file}: ending must be {ending} as of the other files for nnU-Net; convert the file")
            link.symlink_to(file.resolve())
    content = {
        "channel_names": {str(channel): name or "image" for channel, name in enumerate(cases.modality)},
        "labels": {("background" if value == 0 else name): value for value, name in sorted(cases.labels.items())},
        "numTraining": len(training),
        "file_ending": ending,
    }
    (dataset_dir / "dataset.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return dataset_dir


def quick_configuration(
    plans: Mapping[str, Any],
    spacing: float | None = None,
    patch_size: int = 48,
    features: Sequence[int] = (16, 32, 64, 128),
) -> dict[str, Any]:
    """Return a configuration for minutes on a CPU: that of `3d_fullres` with small patches and a small network.

    Args:
        plans: that nnU-Net made of the data set.
        spacing: smallest edge of a voxel in mm; None: as planned.
        patch_size: edge of a patch in voxels.
        features: of each level, finest first.
    """
    configuration = copy.deepcopy(plans["configurations"]["3d_fullres"])
    if spacing is not None:
        configuration["spacing"] = [max(edge, spacing) for edge in configuration["spacing"]]
    configuration |= {
        "data_identifier": f"nnUNetPlans_{QUICK}",
        "patch_size": [patch_size] * 3,
        "batch_size": 2,
        "batch_dice": True,  # nnU-Net's rule for patches that are much smaller than a scan
    }
    levels = len(features)
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": levels,
        "features_per_stage": [*features],
        "kernel_sizes": [[3, 3, 3]] * levels,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (levels - 1)],
        "n_conv_per_stage": [2] * levels,
        "n_conv_per_stage_decoder": [2] * (levels - 1),
    }
    return configuration


def name_case(case: Mapping[str, Any]) -> str:
    return case.get("case_id") or case_id(case["image"])


def _ending(file: Path) -> str:
    return ".nii.gz" if file.name.lower().endswith(".nii.gz") else file.suffix
