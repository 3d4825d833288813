"""Train and score nnU-Net v2 on the cases of a bundle; `bash tools/nnunet.sh` runs this in nnU-Net's own environment.

As an arm of a study, which runs the command once as `training` and once as `evaluation`:

    nnunet:
      command: [bash, tools/nnunet.sh, '{workflow}', --dataset_dir, '{dataset_dir}', --output_dir, '{output_dir}',
        --num_labeled, '{num_labeled}', --fold, '{fold}', --seed, '{seed}', --split, '{split}', --minutes, 3]
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli import InputError, MissingFileError, check_choice
from common.cli.options import POSITIVE, POSITIVE_INT
from tools._command import run_command
from tools.nnunet.dataset import DATASET, QUICK, name_case, quick_configuration, write_raw_dataset

_WORKFLOWS = ("training", "evaluation")
_VARIANTS = ("default", "quick")

logger = logging.getLogger(__name__)


def nnunet(
    workflow: str,
    *,
    dataset_dir: str,
    output_dir: str,
    num_labeled: int | None = None,
    fold: int = 0,
    seed: int = 0,
    minutes: float = 3.0,
    steps: int | None = None,
    variant: str = "default",
    spacing: float | None = None,
    split: str = "test",
    num_validation: int | None = None,
    num_folds: int = 5,
) -> None:
    """Train nnU-Net for some minutes of CPU time, or score what was trained.

    A training chooses the labeled cases as every bundle does, and leaves `nnunet/model.pt` and `nnunet/training.json`.
    An evaluation segments cases without mirroring them, and leaves `evaluation/mean_dice_raw.csv` as that of a bundle.

    Args:
        workflow: `training` or `evaluation`.
        dataset_dir: folder that holds `dataset.json`.
        output_dir: folder of the run, as the `ckpt_dir` of a bundle.
        num_labeled: training cases whose labels are used; None: all.
        fold: see `read_cases`, also for `num_validation` and `num_folds`.
        seed: of the initial weights and the draws.
        minutes: CPU time of the steps, of all threads; what comes before them (reading, planning, preprocessing) is
            not counted.
        steps: their number in place of the minutes: on a machine that others share, a step takes more CPU time, too.
        variant: `default`: what nnU-Net plans by itself; or `quick`: what few minutes on a CPU allow, with a small
            network, patches of 48 voxels, AdamW, and no mirroring.
        spacing: of `quick`: smallest edge of a voxel in mm; None: as planned.
        split: cases to score, `test` or `validation`.
        num_validation: validation cases at most.
        num_folds: number of folds.
    """
    check_choice("workflow", workflow, _WORKFLOWS)
    check_choice("variant", variant, _VARIANTS)
    check_choice("split", split, ("test", "validation"))
    POSITIVE.check("minutes", minutes)
    POSITIVE_INT.or_null.check("steps", steps)
    if spacing is not None:
        POSITIVE.check("spacing", spacing)
        if variant != "quick":
            raise InputError(f"spacing must be left out with nnU-Net's own plan, got {spacing}; pass --variant quick")
    from common.data import read_cases

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = Path(output_dir).absolute() / "nnunet"
    for name in ("raw", "preprocessed", "results"):  # before nnU-Net is imported
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    cases = read_cases(dataset_dir, fold, num_folds, num_labeled, num_validation)
    if workflow == "training":
        shutil.rmtree(folder, ignore_errors=True)
        write_raw_dataset(cases, folder / "raw")
        _plan(folder, variant, spacing)
        _train(folder, variant, minutes, steps, seed, [name_case(case) for case in cases.labeled("training")])
    else:
        _evaluate(folder, variant, cases.labeled(split), cases.labels)


def _plan(folder: Path, variant: str, spacing: float | None) -> None:
    """Have nnU-Net extract its fingerprint, plan and preprocess; add the quick configuration to its plan."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprint_dataset(1, num_processes=1, check_dataset_integrity=True, show_progress_bar=False)
    api.plan_experiment_dataset(1)
    path = folder / "preprocessed" / DATASET / "nnUNetPlans.json"
    plans = json.loads(path.read_text(encoding="utf-8"))
    if variant == "quick":
        plans["configurations"][QUICK] = quick_configuration(plans, spacing)
        path.write_text(json.dumps(plans, indent=1), encoding="utf-8")
    api.preprocess_dataset(1, configurations=[_configuration(variant)], num_processes=[1], show_progress_bar=False)


def _configuration(variant: str) -> str:
    return QUICK if variant == "quick" else "3d_fullres"


def _make_trainer(folder: Path, variant: str) -> Any:
    import torch

    from tools.nnunet.trainers import QuickTrainer, TimedTrainer

    os.environ |= {"nnUNet_n_proc_DA": "0"}  # augment in this process, whose time counts; planning wants 1 or more
    place = folder / "preprocessed" / DATASET
    plans, dataset = (
        json.loads((place / name).read_text(encoding="utf-8")) for name in ("nnUNetPlans.json", "dataset.json")
    )
    return (QuickTrainer if variant == "quick" else TimedTrainer)(
        {**plans, "continue_training": False}, _configuration(variant), "all", dataset, torch.device("cpu")
    )


def _train(folder: Path, variant: str, minutes: float, steps: int | None, seed: int, names: Sequence[str]) -> None:
    import numpy as np
    import torch

    from common.data import write_atomically

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    trainer = _make_trainer(folder, variant)
    trainer.seconds, trainer.max_steps = 60 * minutes, steps
    began = time.process_time()
    trainer.run_training()
    seconds = time.process_time() - began
    write_atomically(folder / "model.pt", lambda path: torch.save(trainer.network.state_dict(), path))
    record = {"variant": variant, "cases": [*names], "seed": seed, "steps": trainer.steps, "cpu_seconds": seconds}
    write_atomically(folder / "training.json", lambda path: path.write_text(json.dumps(record, indent=1) + "\n"))
    logger.info("nnU-Net, %s: %d steps in %.0f s of CPU time", variant, trainer.steps, seconds)


def _evaluate(folder: Path, variant: str, cases: Sequence[dict[str, Any]], labels: dict[int, str]) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from common.data import image_files
    from common.training import write_scores

    weights = folder / "model.pt"
    if not weights.is_file():
        raise MissingFileError(f"{weights}: must be the weights of a training, got no such file; run training first")
    learned = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    if shared := [name_case(case) for case in cases if name_case(case) in learned["cases"]]:
        raise InputError(f"{weights}: must be scored on other cases than it learned from, got {shared[0]}; pass --fold")
    if learned["variant"] != variant:
        raise InputError(f"{weights}: variant must be that of the training, {learned['variant']}, got {variant}")
    trainer = _make_trainer(folder, variant)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(use_mirroring=False, device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [torch.load(weights, map_location="cpu", weights_only=True)],
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    evaluation_dir = folder.parent / "evaluation"
    segmentations = evaluation_dir / "segmentations"
    segmentations.mkdir(parents=True, exist_ok=True)
    files = [segmentations / name_case(case) for case in cases]
    predictor.predict_from_files_sequential([image_files(case) for case in cases], [str(file) for file in files])
    ending = trainer.dataset_json["file_ending"]
    scores = torch.stack(
        [_dice(f"{file}{ending}", case["label"], len(labels)) for file, case in zip(files, cases, strict=True)]
    )
    path = write_scores(evaluation_dir / "mean_dice_raw.csv", [image_files(case)[0] for case in cases], scores, labels)
    logger.info("mean_dice %.4f over %d cases: %s", float(scores.nanmean(dim=1).nanmean()), len(cases), path)


def _dice(segmentation: str, label: str, num_classes: int) -> Any:
    """Return the Dice of each class but the background, of shape `(num_classes - 1,)`; NaN where the label has none."""
    from monai.metrics import compute_dice
    from monai.networks import one_hot
    from monai.transforms import LoadImage

    read = LoadImage(image_only=True, ensure_channel_first=True)
    pred, target = (one_hot(read(file).round()[None], num_classes) for file in (segmentation, label))
    return compute_dice(pred, target, include_background=False)[0].as_tensor()


if __name__ == "__main__":
    run_command(nnunet)
