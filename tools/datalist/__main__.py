"""Write the dataset.json of folders of images and labels.

python -m tools.datalist DATASET_DIR --images imagesTr --labels labelsTr [--test_images imagesTs]
    [--test_labels labelsTs] [--unlabeled imagesUn] [--normal imagesNo] [--organs organs] [--modality CT]
    [--label_names "background,liver"] [--ignore 255] [--renumber] [--overwrite]

One folder per patient: --images "*/image.nii.gz" --labels "*/label.nii.gz". Several channels: --modality "FLAIR,T1w"
and nnU-Net's names (case_0000, case_0001), or --images "*/flair.nii.gz,*/t1.nii.gz".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.cli import InputError
from tools._command import run_command
from tools.datalist.label_values import name_labels
from tools.datalist.scans import Scan, is_pattern, join_channels, list_scans, pair, pair_training


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
    renumber: bool = False,
    overwrite: bool = False,
    normal: str | None = None,
    organs: str | None = None,
    ignore: int | None = None,
) -> str:
    """Write a dataset.json in which images and labels are paired by name.

    A label has the name of its image up to the case of letters, the file type, and a part at either end such as
    `_seg`, `label_` or, of images, `_0000`. Of several channels, an image has a file for each, `_0000`, `_0001` and so
    on. In place of a folder, each option takes a pattern such as `*/image.nii.gz`, or one for each channel, separated
    by commas: then what the `*` stands for pairs, and the first folder that it stands for is the patient.

    Args:
        dataset_dir: folder that holds the others; dataset.json is written there.
        images: folder or pattern of the training images.
        labels: of their labels.
        test_images: of the test images.
        test_labels: of their labels, if any.
        unlabeled: of images without labels; when it is that of the images, those without a label go there.
        modality: such as CT or MRI; of several channels, the name of each, separated by commas.
        label_names: from background on, separated by commas; those of 3D Slicer's segments or made up from the values
            in the label files when not given.
        renumber: where labels are not 0, 1, 2 and so on, or where segments of one name have several values, write
            label files whose labels are, into the folder `labels_renumbered`; dataset.json keeps what became of each.
        overwrite: replace an older dataset.json.
        normal: folder or pattern of scans without a tumor. Where a patient has several, add the patient's name to the
            entry of each in dataset.json as `patient`, so that they are held out together.
        organs: of masks of the organ in which tumors may lie, for as many of all these images as have one.
        ignore: value of voxels that are not labeled, such as 255, where labels are sparse.
    """
    from common.cli.options import INT
    from common.data import write_datalist

    INT.or_null.check("ignore", ignore)
    root = Path(dataset_dir)
    if (root / "dataset.json").exists() and not overwrite:
        raise InputError(
            f"{root / 'dataset.json'}: must not exist without --overwrite, got one; keep it, or pass --overwrite"
        )
    if test_labels is not None and test_images is None:
        raise InputError("test_images must be given with test_labels, got none; name their folder")
    channels, names = _read_names(root, modality, label_names)

    has_labels = labels != "labelsTr" or (root / labels).exists() or not (unlabeled or normal)
    has_images = has_labels or is_pattern(images) or (root / images).exists()
    training, spare, has_channels = pair_training(
        list_scans(root, images) if has_images else [],
        list_scans(root, labels) if has_labels else [],
        len(channels),
    )
    num_channels = len(training[0][0].files) if training else len(channels)
    if num_channels > 1 and num_channels != len(channels):
        raise InputError(
            f'--modality must name each of the {num_channels} channels of an image, such as "FLAIR,T1w", got '
            f"{modality!r}"
        )

    def others(where: str | None) -> list[Scan]:
        scans = list_scans(root, where)
        return join_channels(scans, num_channels) if has_channels or num_channels > 1 else scans

    if spare and unlabeled != images:
        raise InputError(
            f"{spare[0].files[0]}: image must have a label in {labels}, got none ({len(spare)} such images in all); "
            f"add it, or pass --unlabeled {images}"
        )
    if unlabeled != images:
        spare = others(unlabeled)
    test, without_label = pair(others(test_images), list_scans(root, test_labels))
    for image, label in [*training, *test]:
        if label.files[0] in image.files:
            raise InputError(f"{label.files[0]}: label must be another file than its image; look at images and labels")
    without_tumor = others(normal)
    label_files = [label.files[0] for _, label in [*training, *test]]
    labels_named, replaced, record = name_labels(root, label_files, names, renumber, ignore)
    lists = {
        "training": [_entry(root, *both, replaced) for both in training],
        "test": [_entry(root, *both, replaced) for both in test] + [_entry(root, scan) for scan in without_label],
        "unlabeled": [_entry(root, scan) for scan in spare],
        "normal": [_entry(root, scan) for scan in without_tumor],
    }
    scans = [*(scan for scan, _ in [*training, *test]), *without_label, *spare, *without_tumor]
    num_organs = _add_organs(root, scans, [case for cases in lists.values() for case in cases], organs)
    said = f"{len(training)} training, {len(lists['test'])} test and {len(spare)} unlabeled cases"
    if normal is None:
        del lists["normal"]
    else:
        said += f", {len(lists['normal'])} without a tumor"
    if organs is not None:
        said += f"; {num_organs} of all have an organ"
    content = {
        "name": root.resolve().name,
        "modality": {str(channel): name for channel, name in enumerate(channels)},
        "labels": labels_named,
        **({} if ignore is None else {"ignore": ignore}),
        **record,
        **{name: [_shorten(case) for case in cases] for name, cases in lists.items()},
    }
    return f"{write_datalist(root, content)}: {said}"


def _read_names(root: Path, modality: str, label_names: str | None) -> tuple[list[str], list[str] | None]:
    """Return the names of the channels and of the labels, those that are not given from nnU-Net's dataset.json."""
    from common.data import read_names

    path = root / "dataset.json"
    channels = [name.strip() for name in modality.split(",")]
    names = None if label_names is None else [name.strip() for name in label_names.split(",")]
    if len(channels) > 1 and not all(channels):
        raise InputError(f'--modality must name each channel, such as "FLAIR,T1w", got {modality!r}')
    is_of_nnunet = path.is_file() and '"channel_names"' in path.read_text(encoding="utf-8-sig", errors="replace")
    if is_of_nnunet and (names is None or not modality):
        old_names, old_channels = read_names(path)
        channels = channels if modality else old_channels
        names = names or [*old_names.values()] or None
    if names is not None and (len({*names}) < len(names) or not all(names)):
        raise InputError(f"--label_names must be different names, got {','.join(names)!r}; name each label")
    return channels, names


def _entry(root: Path, scan: Scan, label: Scan | None = None, replaced: Mapping[Path, Path] | None = None) -> dict:
    """Return the entry of a case in dataset.json."""
    files = [_name(root, file) for file in scan.files]
    entry: dict[str, Any] = {"image": files[0] if len(files) == 1 else files}
    if label is not None:
        entry["label"] = _name(root, (replaced or {}).get(label.files[0], label.files[0]))
    return entry if scan.patient is None else {**entry, "patient": scan.patient}


def _shorten(case: dict[str, Any]) -> Any:
    """Return the name of the file alone where a case has nothing else."""
    return case["image"] if list(case) == ["image"] and isinstance(case["image"], str) else case


def _name(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()


def _add_organs(root: Path, scans: list[Scan], cases: list[dict[str, Any]], organs: str | None) -> int:
    """Add the mask of its organ to the case of each scan that has one, and return their number."""
    if organs is None:  # the same name may stand in two lists
        return 0
    masked, _ = pair(scans, list_scans(root, organs), "organ")
    mask_of = {scan.files: _name(root, mask.files[0]) for scan, mask in masked}
    for scan, case in zip(scans, cases, strict=True):
        if scan.files in mask_of:
            case["organ"] = mask_of[scan.files]
    return len(masked)


if __name__ == "__main__":
    run_command(datalist)
