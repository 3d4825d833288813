"""Tune how the votes of an atlas are counted, on your own validation cases.

    python -m tools.tune planar --dataset_dir DIR --ckpt_dir DIR --override_files configs/small.yaml

Neighbors of each validation case are found once; then the weight of carried labels, the smoothing, the number of
neighbors and the weight of the background are varied one after another. It ends with what to pass to `evaluation`
and `inference`. The atlas itself stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.cli import InputError, MissingFileError
from tools._command import find_bundle, run_command

__all__ = ["tune"]

_BUNDLES = {"planar": "planar_heatmap_descriptor"}


def tune(
    method: str,
    *,
    dataset_dir: str,
    ckpt_dir: str = "",
    override_files: str = "",
    num_cases: int | None = None,
    split: str = "validation",
    **options: Any,
) -> str:
    """Vary the options by which votes are counted, and name the best.

    Args:
        method: `planar`.
        dataset_dir: folder with dataset.json.
        ckpt_dir: folder of the atlas, model.pt; that of the bundle if not given.
        override_files: configs with which it was made, relative to the bundle, separated by commas.
        num_cases: cases at most; all of the fold if not given.
        split: `validation`, or `training` for cases that are not in the atlas.
        options: others with which it was made, by id, such as fold.
    """
    import torch
    from monai.bundle import ConfigParser
    from tqdm import tqdm

    from common.cli import check_choice
    from common.cli.options import POSITIVE_INT
    from common.cli.texts import express_texts
    from common.planar import VoteTuner
    from common.training import load_network

    check_choice("method", method, tuple(_BUNDLES))
    check_choice("split", split, ("validation", "training"))
    POSITIVE_INT.or_null.check("num_cases", num_cases)
    bundle = find_bundle(_BUNDLES[method])
    folder = Path(ckpt_dir) if ckpt_dir else bundle / "models"
    if not (folder / "model.pt").is_file():
        raise MissingFileError(
            f"{folder / 'model.pt'}: must exist, got no such file; run a training, or pass --ckpt_dir"
        )
    names = ["configs/train.yaml", "configs/evaluate.yaml", *(name for name in override_files.split(",") if name)]
    parser = ConfigParser()
    parser.read_config([bundle / name for name in names])
    unknown = [name for name in options if name not in parser]
    if unknown:
        raise InputError(
            f"options must be ids of the configs, got {unknown[0]!r}; see python -m tools.options {bundle.name}"
        )
    texts = {"bundle_root": str(bundle), "ckpt_dir": str(folder), "dataset_dir": dataset_dir, "split": split}
    parser.update(express_texts({**texts, **options}))
    atlas = parser.get_parsed_content("network_def")
    load_network(atlas, folder / "model.pt")
    load = parser.get_parsed_content("train::preprocessing")  # with the label on the grid of the network
    cases = parser.get_parsed_content("cases").labeled(split)[:num_cases]
    tuner = VoteTuner(atlas.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    for case in tqdm(cases, desc="neighbors", disable=None):
        item = load(dict(case))
        tuner.add(item["image"].as_tensor(), item["label"].as_tensor())
    lines = []
    for values, score in tqdm(tuner.tune(), desc="votes", disable=None):
        lines.append(f"{_tell(values)}: Dice {score:.4f}")
    passed = " ".join(f"--{name} {value}" for name, value in values.items())
    return "\n".join([*lines, f"best on {len(cases)} cases, on the grid of the network: {passed}"])


def _tell(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


if __name__ == "__main__":
    run_command(tune)
