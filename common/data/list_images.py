"""List of the scans that a user points at."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from common.cli import InputError, MissingFileError

from .checks import PICTURE_SUFFIX, SUFFIXES, check_grids, check_header

__all__ = ["list_images"]


def list_images(path: str | Path, allow_2d: bool = False, organ_dir: str | Path | None = None) -> list[dict[str, str]]:
    """List the scans below a path, each with a header that makes sense.

    Args:
        path: one file, a folder of files (`.nii`, `.nii.gz`, `.nrrd`, `.mha`, `.mhd`; sub-folders, too), or a folder
            with the `.dcm` files of one DICOM series.
        allow_2d: take 2D images, too, and `.png` files; otherwise a 2D image is refused.
        organ_dir: folder with a mask for each scan, whose file has the scan's name but for its suffix.

    Returns:
        One mapping with `image`, and `organ` if asked for, for each scan, sorted by path.

    Raises:
        FileNotFoundError: when the path does not exist or holds no scan, or a scan has no mask.
        ValueError: when a file is of another type, lies beside a DICOM series or has a header that `check_header`
            refuses, when two scans or masks have the same name, or when a mask is not on the grid of its scan.
    """
    images = _list_scans(Path(path), allow_2d)
    if organ_dir is None:
        return [{"image": image} for image in images]
    organs = _find_organs(images, organ_dir)
    return [{"image": image, "organ": organ} for image, organ in zip(images, organs, strict=True)]


def _find_organs(images: list[str], organ_dir: str | Path) -> list[str]:
    """Return the mask that has the name of each scan and lies on its grid."""
    files = _find_scans(Path(organ_dir), SUFFIXES, f"{organ_dir}: masks must have different names")
    masks = {_stem(file): str(file) for file in files}
    missing = [image for image in images if _stem(Path(image)) not in masks]
    if missing:
        raise MissingFileError(f"{organ_dir}: must hold a mask for each scan, got none for {missing[0]}")
    organs = [masks[_stem(Path(image))] for image in images]
    for image, organ in zip(images, organs, strict=True):
        header = check_header(organ)
        if Path(image).is_file():  # the grid of a DICOM series is known only when it is read
            check_grids(check_header(image, allow_2d=True), header, organ, "organ")
    return organs


def _list_scans(path: Path, allow_2d: bool) -> list[str]:
    suffixes = (*SUFFIXES, PICTURE_SUFFIX) if allow_2d else SUFFIXES
    if not path.exists():
        raise MissingFileError(f"{path}: dataset_dir must exist")
    if path.is_file():
        if not path.name.lower().endswith(suffixes):
            raise InputError(f"{path}: scan must be one of {', '.join(suffixes)}, got {path.suffix or 'no suffix'}")
        check_header(path, allow_2d=allow_2d)
        return [str(path)]
    if any(child.suffix.lower() == ".dcm" for child in path.iterdir()):
        if any(_is_scan(file, suffixes) for file in path.rglob("*")):
            raise InputError(f"{path}: must hold one DICOM series or other scans, got both")
        return [str(path)]
    if (path / "dataset.json").is_file():
        raise InputError(
            f"{path}: is a data set with labels; name the folder of its scans, such as {path / 'imagesTs'}"
        )
    files = _find_scans(path, suffixes, "scans must have different names, since each names its segmentation")
    if not files:
        raise MissingFileError(f"{path}: dataset_dir must hold scans ({', '.join(suffixes)} or .dcm), got none")
    for file in files:
        check_header(file, allow_2d=allow_2d)
    return [str(file) for file in files]


def _find_scans(folder: Path, suffixes: tuple[str, ...], rule: str) -> list[Path]:
    """Return the scans below a folder, no two of one name, by the `rule`, which an error cites."""
    files = sorted(file for file in folder.rglob("*") if _is_scan(file, suffixes))
    stems = Counter(map(_stem, files))
    repeated = [str(file) for file in files if stems[_stem(file)] > 1]
    if repeated:
        raise InputError(f"{rule}, got {repeated[:4]}")
    return files


def _is_scan(file: Path, suffixes: tuple[str, ...]) -> bool:
    """Tell whether a file below a folder is a scan; hidden ones, such as the `._` files of macOS, are not."""
    return file.is_file() and file.name.lower().endswith(suffixes) and not file.name.startswith(".")


def _stem(file: Path) -> str:
    if file.is_dir():  # of a DICOM series, whose name may be a UID with dots
        return file.name.lower()
    return file.name.lower().removesuffix(".gz").rsplit(".", 1)[0]
