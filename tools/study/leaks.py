"""Guard of a study against leaks: no scan that is scored is learned from, whatever its file is called."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import InputError
from tools.study.plan import Study

if TYPE_CHECKING:
    from common.data import Cases

__all__ = ["check_leaks"]

Files = tuple[str, ...]  # of an image, one or one for each channel


def check_leaks(study: Study) -> None:
    """Refuse a study in which a pool of training holds the voxels of a test or validation scan.

    The pools are the training cases and the scans without a label of each fold, among which are those that get
    pseudo-labels, and the scans without a lesion. Only scans that share their size with a scored one are read.

    Raises:
        ValueError: with the files of both.
    """
    from common.data import read_cases

    if not (Path(study.dataset_dir) / "dataset.json").is_file():
        return  # the runs themselves will say so
    options = {key: study.options[key] for key in ("num_folds",) if key in study.options}
    sums = _Checksums()
    for fold in study.folds:
        cases = read_cases(study.dataset_dir, fold, **options)
        _check(_scored(cases), _pools(cases), fold, sums)


def _pools(cases: Cases) -> dict[str, list[Files]]:
    away = [case["image"] for case in cases.normal_validation]
    normal = [case for case in cases.normal if case["image"] not in away]
    lists = {"training": cases.training, "unlabeled": cases.unlabeled, "normal": normal}
    return {name: [_files(case) for case in part] for name, part in lists.items()}


def _scored(cases: Cases) -> dict[str, list[Files]]:
    shared = [case["image"] for case in cases.training]  # a single patient serves for both, with a warning
    lists = {"test": cases.test, "validation": cases.validation}
    return {name: [_files(case) for case in part if case["image"] not in shared] for name, part in lists.items()}


def _check(
    scored: Mapping[str, Sequence[Files]], pools: Mapping[str, Sequence[Files]], fold: int, sums: _Checksums
) -> None:
    by_size: dict[Any, list[tuple[str, Files]]] = defaultdict(list)
    for name, part in scored.items():
        for files in part:
            by_size[sums.size(files)].append((name, files))
    for pool, part in pools.items():
        for files in part:
            for name, other in by_size.get(sums.size(files), ()):
                if files == other or sums.checksum(files) == sums.checksum(other):
                    raise InputError(
                        f"{files[0]}: must not be learned from ({pool}, fold {fold}), since it holds the voxels of "
                        f"{other[0]}, which is held out ({name}); take one of them out of the data list"
                    )


class _Checksums:
    """Sizes and checksums of scans, each read once."""

    def __init__(self) -> None:
        self.sizes: dict[Files, Any] = {}

    def size(self, files: Files) -> Any:
        from common.data import check_header

        if files not in self.sizes:
            headers = [check_header(file, allow_2d=True) for file in files]
            self.sizes[files] = (headers[0].shape, sum(header.channels for header in headers))
        return self.sizes[files]

    def checksum(self, files: Files) -> str:
        from common.data import fingerprint

        return fingerprint(files if len(files) > 1 else files[0])


def _files(case: Mapping[str, Any]) -> Files:
    from common.data import image_files

    return tuple(image_files(case))
