"""Write the dataset.json of folders of images and labels.

python -m tools.datalist DATASET_DIR --images imagesTr --labels labelsTr [--test_images imagesTs]
    [--test_labels labelsTs] [--unlabeled imagesUn] [--normal imagesNo] [--organs organs] [--modality CT]
    [--label_names "background,liver"] [--overwrite]
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from common.cli import InputError, MissingFileError
from tools._command import run_command

_PREFIX = r"^(image|img|label|lbl|mask|segmentation|seg|organ|volume|vol)[-_]"
_SUFFIX = r"[-_](0000|image|img|labels?|lbl|mask|segmentation|seg|organ|gt)$"


def datalist(
    dataset_dir: str,
    *,
    images: str = "imagesTr",
    labels: str = "labelsTr",
    test_images: str | None = None,
    test_labels: str | None = None,
    unlabeled: str | None = None,
    modality: str = "",
    label_names: str | None = None,
    overwrite: bool = False,
    normal: str | None = None,
    organs: str | None = None,
) -> str:
    """Write a dataset.json in which images and labels are paired by name.

    A label has the name of its image up to the case of letters, the file type, and a part at either end such as
    `_0000`, `_seg` or `label_`.

    Args:
        dataset_dir: folder that holds the others; dataset.json is written there.
        images: folder of the training images.
        labels: folder of their labels.
        test_images: folder of the test images.
        test_labels: folder of their labels, if any.
        unlabeled: folder of images without labels; when it is that of the images, those without a label go there.
        modality: such as CT or MRI.
        label_names: from background on, separated by commas; the values in the label files when not given.
        overwrite: replace an older dataset.json.
        normal: folder of scans without a tumor. Where a patient has several, add the patient's name to the entry of
            each in dataset.json as `case`, so that they are held out together.
        organs: folder of masks of the organ in which tumors may lie, for as many of all these images as have one.
    """
    from common.data import write_datalist

    root = Path(dataset_dir)
    if (root / "dataset.json").exists() and not overwrite:
        raise InputError(f"{root / 'dataset.json'}: must not exist without --overwrite, got one")
    if test_labels is not None and test_images is None:
        raise InputError("test_images must be given with test_labels, got none")

    pairs, spare = _pair(_list(root, images), _list(root, labels))
    if spare and unlabeled != images:
        raise InputError(f"{spare[0]}: image must have a label in {labels}, got none ({len(spare)} such images in all)")
    if unlabeled != images:
        spare = _list(root, unlabeled)
    test_pairs, without_label = _pair(_list(root, test_images), _list(root, test_labels))
    lists = {
        "training": _cases(root, pairs),
        "test": _cases(root, test_pairs) + _cases(root, zip(without_label)),
        "unlabeled": _cases(root, zip(spare)),
        "normal": _cases(root, zip(_list(root, normal))),
    }
    num_organs = _add_organs(root, [case for cases in lists.values() for case in cases], organs)
    said = f"{len(pairs)} training, {len(lists['test'])} test and {len(spare)} unlabeled cases"
    if normal is None:
        del lists["normal"]
    else:
        said += f", {len(lists['normal'])} without a tumor"
    if organs is not None:
        said += f"; {num_organs} of all have an organ"
    content = {
        "name": root.resolve().name,
        "modality": {"0": modality},
        "labels": _name_labels(label_names, [label for _, label in pairs]),
        **{name: [case["image"] if len(case) == 1 else case for case in cases] for name, cases in lists.items()},
    }
    return f"{write_datalist(root, content)}: {said}"


def _add_organs(root: Path, cases: list[dict[str, str]], organs: str | None) -> int:
    """Add the mask of its organ to each case that has one, and return their number."""
    if organs is None:  # the same name may stand in two lists
        return 0
    masked, _ = _pair([root / case["image"] for case in cases], _list(root, organs), "organ")
    mask_of = {_name(root, image): _name(root, mask) for image, mask in masked}
    for case in cases:
        if case["image"] in mask_of:
            case["organ"] = mask_of[case["image"]]
    return len(masked)


def _list(root: Path, folder: str | None) -> list[Path]:
    """Return the image files of a folder in order of name: volumes or, where there are none, PNG pictures."""
    from common.data.header import PICTURE_SUFFIX, SUFFIXES

    if folder is None:
        return []
    path = root / folder
    if not path.is_dir():
        raise MissingFileError(f"{path}: must be a folder, got {'a file' if path.exists() else 'nothing there'}")
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{path}: must lie inside {root}, got a folder outside")
    visible = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    for suffixes in (SUFFIXES, PICTURE_SUFFIX):
        files = [file for file in visible if file.name.lower().endswith(suffixes)]
        if files:
            return files
    raise InputError(f"{path}: must hold {', '.join((*SUFFIXES, PICTURE_SUFFIX))} files, got none")


def _pair(images: list[Path], labels: list[Path], name: str = "label") -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Return pairs of image and label, or what else it is called, and the images without one.

    Names pair whole where every label can; else up to the case of letters and common parts at their ends.
    """
    from common.data import case_id

    def strip(path: Path) -> str:
        return re.sub(_SUFFIX, "", re.sub(_PREFIX, "", case_id(path).casefold()))

    exact = {case_id(label) for label in labels} <= {case_id(image) for image in images}
    key = case_id if exact else strip
    label_of, image_of = _index(labels, key), _index(images, key)
    orphans = [label for stem, label in label_of.items() if stem not in image_of]
    if orphans:
        raise InputError(f"{orphans[0]}: {name} must have an image, got none ({len(orphans)} such {name}s in all)")
    pairs = [(image, label_of[stem]) for stem, image in image_of.items() if stem in label_of]
    return pairs, [image for stem, image in image_of.items() if stem not in label_of]


def _index(files: list[Path], key: Callable[[Path], str]) -> dict[str, Path]:
    """Return files by the key of their name."""
    found = defaultdict(list)
    for file in files:
        found[key(file)].append(file)
    for name, same in found.items():
        if len(same) > 1:
            raise InputError(f"{same[0]}: only one file must be called {name!r}, got {[file.name for file in same]}")
    return {name: same[0] for name, same in found.items()}


def _cases(root: Path, rows: Iterable[tuple[Path, ...]]) -> list[dict[str, str]]:
    """Return an entry of dataset.json for each row, an image or a pair of image and label."""
    return [dict(zip(("image", "label"), (_name(root, file) for file in row), strict=False)) for row in rows]


def _name(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()


def _name_labels(label_names: str | None, labels: list[Path]) -> dict[str, str]:
    """Return names by value: those given, or made up for the values that the label files hold."""
    if label_names is not None:
        return {str(value): name.strip() for value, name in enumerate(label_names.split(","))}
    from common.data import check_label, read_volume

    read = [check_label(read_volume(label, allow_2d=True)[0], label) for label in labels]
    values = {0}.union(*(np.unique(label).tolist() for label in read))
    if sorted(values) != list(range(len(values))):
        raise InputError(f"labels must be numbered 0, 1, 2 and so on, got {sorted(values)}; renumber them")
    return {str(value): f"label_{value}" if value else "background" for value in sorted(values)}


if __name__ == "__main__":
    run_command(datalist)
