"""Names of the ids by which commands drive a workflow, the same in all bundles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tools.verify.bundle import Bundle

__all__ = ["check_names"]

_NAMES = {  # of what a command may want to set, and what it runs
    "pretrain": ["ckpt_dir", "resume", "seed", "fold", "num_folds", "max_epochs", "pretraining"],
    "train": [
        *("ckpt_dir", "resume", "seed", "fold", "num_folds", "num_labeled", "num_validation", "val_interval"),
        "training",
    ],
    "evaluate": ["split", "evaluation_dir", "num_pictures", "evaluation"],
    "inference": ["ckpt_dir", "output_dir", "inference"],
}


def check_names(bundles: Sequence[Bundle]) -> Iterator[tuple[Bundle, str]]:
    """Find workflows without an id that the same workflow of another bundle has."""
    for stem, names in _NAMES.items():
        files = {bundle: file for bundle in bundles if (file := bundle.find(stem)) is not None}
        for name in names:
            having = [bundle for bundle, file in files.items() if name in bundle.configs[file]]
            for bundle, file in files.items() if having else ():
                if bundle not in having:
                    yield bundle, f"configs/{file}: must have the id {name}, as {having[0].name} has, got none"
