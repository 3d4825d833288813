"""List of the scans that a user points at, in which every file is accounted for."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.cli import BundleError, InputError, MissingFileError, check_flags, keep_going

from .checks import check_grids
from .container import PICTURE_SUFFIX, SUFFIXES
from .dataset_file import Item, image_files
from .dicom import is_dicom
from .header import Header, check_header
from .outcomes import refuse_case
from .reader import Paths, case_id, check_name
from .segmentation import LABEL_TABLES, is_label_table
from .threads import map_threads

__all__ = ["list_images"]

logger = logging.getLogger(__name__)

_SIDECARS = (  # beside scans: what programs and people write down about them
    *(
        ".json",
        ".jsonl",
        ".txt",
        ".csv",
        ".tsv",
        ".xml",
        ".yaml",
        ".yml",
        ".md",
        ".html",
        ".pdf",
        ".log",
        ".bval",
        ".bvec",
    ),
    *(
        ".raw",
        ".zraw",
        ".ctbl",
        ".xlsx",
        ".docx",
        ".lnk",
        ".ini",
        ".db",
        ".sha256",
        ".md5",
        ".jpg",
        ".jpeg",
        PICTURE_SUFFIX,
    ),
)
_LIST = ".json"  # of a file that lists scans
_REPORT = "report.json"  # of an inference, in the folder of its results
_CHANNEL = re.compile(r"_(\d{4})$")


def list_images(
    path: str | Path,
    allow_2d: bool = False,
    organ_dir: str | Path | None = None,
    channels: int = 1,
    series: str | None = None,
    output_dir: str | Path | None = None,
    keep_refused: bool = False,
) -> list[Item]:
    """List the scans below a path, each with a header that makes sense.

    Nothing is passed over in silence: hidden files and those that come with scans, such as `.json`, are no scans, and
    every other file that is none is warned of or refused.

    Args:
        path: one file, a folder of files (`.nii`, `.nii.gz`, `.nrrd`, `.mha`, `.mhd`, pairs of `.hdr` and `.img`;
            sub-folders and linked ones, too), or a folder with the files of one DICOM series; below a folder there may
            be one series in each sub-folder. Or a `.json` file with a list of scans: of each its path, a list with
            that of each channel, or a mapping with `image` and perhaps `organ` and `case_id`.
        allow_2d: take 2D images, too, and `.png` files; otherwise a 2D image is refused.
        organ_dir: folder with a mask for each scan, whose file has the scan's name but for its suffix.
        channels: of a scan. Several lie in one file, or in one each, whose names end in `_0000`, `_0001` and so on.
        series: UID of the DICOM series that is meant, where a folder holds several.
        output_dir: folder of the results, in which no scan is sought.
        keep_refused: a scan that is refused stays in the list, with `outcome` and `reason`, and a `CaseLoader` leaves
            it out; otherwise its error is raised.

    Returns:
        For each scan a mapping with `image` (a path, or a list with the path of each channel), `case_id` (its name,
        and that of its folder where two have the same one), and `organ` if asked for, sorted by path.

    Raises:
        FileNotFoundError: when the path does not exist or holds no scan, a link leads nowhere, or a scan has no mask.
        ValueError: when a file is of another type or has a header that `check_header` refuses, when a file has another
            number of channels, or when a mask is not on the grid of its scan.
    """
    check_flags(keep_refused=keep_refused)
    root, refuse = Path(path), _Refusal(keep_refused)
    _check_output(root, output_dir)
    if root.suffix.lower() == _LIST and root.is_file():
        cases = _read_list(root, refuse)
    else:
        found = _list_scans(root, allow_2d, series, output_dir, refuse)
        images = _group_channels(found, refuse) if channels > 1 else found
        cases = [{"image": image, "case_id": case_id(image)} for image in images]
    headers = map_threads(lambda case: _look_at(case, channels, allow_2d, series, refuse), cases)
    _tell_apart(cases, root, refuse)
    if organ_dir is not None:
        _add_organs(cases, headers, Path(organ_dir), refuse)
    cases += refuse.others
    return sorted(cases, key=lambda case: image_files(case)[0]) if refuse.others else cases


class _Refusal:
    """Refusal of scans: an error is raised, noted where errors are collected, or kept in the entry of its scan.

    Args:
        is_kept: see `keep_refused` of `list_images`.

    Attributes:
        others: entries of what is refused before it is known as a scan.
    """

    def __init__(self, is_kept: bool) -> None:
        self.is_kept = is_kept
        self.others: list[Item] = []

    def __call__(self, case: Item, error: BundleError | OSError) -> None:
        if self.is_kept:
            refuse_case(case, error)
            return
        with keep_going():
            raise error

    def add(self, image: Paths, error: BundleError) -> None:
        """Refuse what is no scan, or none that can be told from others."""
        files = [str(image)] if isinstance(image, str | Path) else [str(file) for file in image]
        case = {"image": files[0] if len(files) == 1 else files, "case_id": case_id(files)}
        self(case, error)
        if self.is_kept:
            self.others.append(case)


def _look_at(case: Item, channels: int, allow_2d: bool, series: str | None, refuse: _Refusal) -> Header | None:
    """Return the header of a scan, or refuse the scan."""
    try:
        check_name(case["image"])
        return _check_scan(case["image"], channels, allow_2d, series)
    except (BundleError, OSError) as error:
        refuse(case, error)
        return None


def _check_output(root: Path, output_dir: str | Path | None) -> None:
    if output_dir is not None and root.is_dir() and Path(output_dir).resolve() == root.resolve():
        raise InputError(
            f"{output_dir}: output_dir must be another folder than that of the scans, since segmentations would be "
            "taken for scans the next time; name a new one"
        )


def _read_list(path: Path, refuse: _Refusal) -> list[Item]:
    """Return the scans that a file lists; relative paths begin at its folder."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        cases = [entry if isinstance(entry, dict) else {"image": entry} for entry in entries]
        found = [{**case, "image": _resolve(path.parent, case["image"])} for case in cases]
        for case in found:
            if "organ" in case:
                case["organ"] = _resolve(path.parent, case["organ"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: must be a list of scans, got {error!r:.120}; write paths of files into it") from None
    if not found:
        raise MissingFileError(f"{path}: must list scans that exist, got none; write their paths into it")
    cases = [{"case_id": case_id(case["image"]), **case} for case in found]
    for case in cases:
        for file in [file for file in image_files(case) if not Path(file).exists()]:
            refuse(
                case,
                MissingFileError(f"{path}: must list scans that exist, got {file}; write their paths into it"),
            )
    return cases


def _resolve(folder: Path, image: Any) -> str | list[str]:
    return [str(folder / file) for file in image] if isinstance(image, list) else str(folder / image)


def _list_scans(
    path: Path, allow_2d: bool, series: str | None, output_dir: str | Path | None, refuse: _Refusal
) -> list[Any]:
    suffixes = (*SUFFIXES, PICTURE_SUFFIX) if allow_2d else SUFFIXES
    if not path.exists():
        raise MissingFileError(f"{path}: dataset_dir must exist; look at the path")
    if path.is_file():
        if is_dicom(path):
            raise InputError(f"{path}: a DICOM series must be named by its folder, got one file; name {path.parent}")
        if not path.name.lower().endswith(suffixes):
            raise InputError(
                f"{path}: scan must be one of {', '.join(suffixes)}, got {path.suffix or 'no suffix'}; convert it"
            )
        return [str(path)]
    if (path / "dataset.json").is_file():
        raise InputError(
            f"{path}: is a data set with labels; name the folder of its scans, such as {path / 'imagesTs'}"
        )
    if _is_output(path):
        raise InputError(
            f"{path}: dataset_dir must hold scans, got the results of an inference; name the scans' folder"
        )
    skipped = None if output_dir is None else Path(output_dir).resolve()
    scans = sorted(_walk(path, suffixes, skipped, refuse))
    if not scans and not refuse.others:
        others = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        found = f"{others[0]} and {len(others) - 1} more" if len(others) > 1 else "".join(others) or "an empty folder"
        raise MissingFileError(
            f"{path}: dataset_dir must hold scans ({', '.join(suffixes)} or DICOM), got {found}; look at the path"
        )
    return scans


def _walk(
    folder: Path, suffixes: tuple[str, ...], skipped: Path | None, refuse: _Refusal, seen: tuple[Path, ...] = ()
) -> Iterator[str]:
    """Yield the scans below a folder: files, and folders that hold a DICOM series; say what the other files are."""
    resolved = folder.resolve()
    if resolved == skipped or resolved in seen:  # a link may lead back
        return
    dicom, files = [], []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):  # such as the `._` files of macOS
            continue
        if entry.is_symlink() and not entry.exists():
            refuse.add(
                entry,
                MissingFileError(
                    f"{entry}: must lead to a scan, got a link to {entry.readlink()}, which is not there; mend or "
                    "remove it"
                ),
            )
        elif entry.is_dir() and _is_output(entry):
            logger.warning("%s: holds the results of an inference and is left out", entry)
        elif entry.is_dir():
            yield from _walk(entry, suffixes, skipped, refuse, (*seen, resolved))
        elif not entry.is_file():
            logger.warning("%s: is no file of the usual kind and is left out", entry)
        elif _is_header_of_pair(entry):
            continue
        elif entry.name.lower().endswith(suffixes):
            files.append(entry)
        elif is_dicom(entry):
            dicom.append(entry)
        elif entry.suffix.lower() not in _SIDECARS and entry.name.upper() != "DICOMDIR":
            logger.warning("%s: is no scan of a known kind (%s or DICOM) and is left out", entry, ", ".join(suffixes))
    if dicom and files:
        refuse.add(
            folder,
            InputError(
                f"{folder}: must hold one DICOM series or other scans, got both, {dicom[0].name} and {files[0].name}; "
                "put them into folders of their own"
            ),
        )
        return
    yield from ([str(folder)] if dicom else map(str, files))


def _is_output(folder: Path) -> bool:
    """Tell whether a folder has the report of an inference or the table of its labels: its images are no scans."""
    if is_label_table(folder / LABEL_TABLES[0]):
        return True
    try:
        content = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and isinstance(content.get("cases"), list)


def _is_header_of_pair(file: Path) -> bool:
    """Tell whether a file is the header whose voxels, under the same name, are listed."""
    return file.suffix.lower() == ".hdr" and any(file.with_suffix(name).is_file() for name in (".img", ".IMG"))


def _group_channels(files: list[str], refuse: _Refusal) -> list[Paths]:
    """Return the files of each case in the order of their channels; a file without a number is a case of its own."""
    cases: dict[str, list[str]] = defaultdict(list)
    for file in files:
        path = Path(file)
        cases[str(path.parent / _CHANNEL.sub("", case_id(path)))].append(file)
    grouped: list[Paths] = []
    for name, members in cases.items():
        numbers = [int(found[1]) if (found := _CHANNEL.search(case_id(file))) else None for file in members]
        if len(members) > 1 and numbers != [*range(len(members))]:
            names = [Path(file).name for file in members]
            refuse.add(
                members,
                InputError(
                    f"{name}: channels must be numbered _0000, _0001 and so on, got {names}; add or rename files"
                ),
            )
            continue
        grouped.append(members if len(members) > 1 else members[0])
    return grouped


def _check_scan(image: Paths, channels: int, allow_2d: bool, series: str | None) -> Header:
    """Return the header of the first file of a scan that has the channels that are wanted."""
    files = [image] if isinstance(image, str | Path) else [*image]
    headers = [check_header(file, allow_2d, series) for file in files]
    for file, header in zip(files[1:], headers[1:], strict=True):
        check_grids(headers[0], header, file, "channel", channels=None)
    found = sum(header.channels for header in headers)
    if found != channels and not str(files[0]).lower().endswith(PICTURE_SUFFIX):  # a picture's depends on its mode
        raise InputError(
            f"{files[0]}: number of channels must be {channels}, got {found}; give the channels that the network was "
            "trained with"
        )
    return headers[0]


def _tell_apart(cases: list[Item], root: Path, refuse: _Refusal) -> None:
    """Put the folder before the name of a case where two have one name, since each names its segmentation."""
    counts = Counter(case["case_id"] for case in cases)
    for case in cases:
        if counts[case["case_id"]] > 1:
            first = case["image"] if isinstance(case["image"], str) else case["image"][0]
            folders = Path(first).parent.relative_to(root).parts if root.is_dir() else [Path(first).parent.name]
            case["case_id"] = "_".join((*folders, case["case_id"]))
    groups: dict[str, list[Item]] = defaultdict(list)
    for case in cases:
        groups[case["case_id"].lower()].append(case)
    for members in [members for members in groups.values() if len(members) > 1]:
        repeated = [str(case["image"]) for case in members]
        error = InputError(
            f"scans must have different names, since each names its segmentation, got {repeated[:4]}; rename one"
        )
        for case in members:
            refuse(case, error)


def _add_organs(cases: list[Item], headers: Sequence[Header | None], organ_dir: Path, refuse: _Refusal) -> None:
    """Add the mask that has the name of each scan and lies on its grid."""
    files = sorted(_walk(organ_dir, SUFFIXES, None, _Refusal(is_kept=False))) if organ_dir.is_dir() else []
    masks: dict[str, str] = {}
    for file in files:
        name = case_id(file).lower()
        if name in masks:
            raise InputError(f"{organ_dir}: masks must have different names, got {[masks[name], file]}; rename one")
        masks[name] = file
    for case, header in zip(cases, headers, strict=True):
        mask = masks.get(case["case_id"].lower())
        if mask is None:
            error = MissingFileError(
                f"{organ_dir}: must hold a mask for each scan, got none for {case['image']}; add one of its name"
            )
            refuse(case, error)
        elif header is not None:
            try:
                check_grids(header, check_header(mask), mask, "organ")
            except (BundleError, OSError) as error:
                refuse(case, error)
        if mask is not None:
            case["organ"] = mask
