"""Segmentation of a case as the writers of all formats take it, and the tables of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from common.cli import InputError, MissingPackageError

from .colors import label_color
from .container import PICTURE_SUFFIX

__all__ = [
    "LABEL_TABLES",
    "Segmentation",
    "check_format",
    "check_packages",
    "is_label_table",
    "label_tables",
    "label_xml",
    "segmentation_files",
]

LABEL_TABLES = ("labels.txt", "labels.ctbl")  # for ITK-SNAP, and for 3D Slicer, FreeSurfer and others
_HEAD = "# ITK-SnAP Label Description File"
_ENDINGS = {  # of the files of a case, by format
    "nifti": "_seg.nii.gz",
    "seg.nrrd": ".seg.nrrd",
    "dicom_seg": "_seg.dcm",
    "rtstruct": "_rtstruct.dcm",
}
_OF_DICOM = ("dicom_seg", "rtstruct")
_PACKAGES = {"dicom_seg": "highdicom"}


@dataclass(frozen=True)
class Segmentation:
    """Label map of a case, with all that a file of any format says of it.

    Attributes:
        label_map: whole numbers of shape `(H, W, D)`.
        affine: `(4, 4)`, from voxel indices to RAS millimeters.
        labels: names of the labels by their value, background (0) included.
        source: file of the scan, or folder of its DICOM series.
        series: UID of that series; empty where the scan is no DICOM.
        is_oriented: whether the scan says where the patient's left, front and head are.
    """

    label_map: np.ndarray
    affine: np.ndarray
    labels: Mapping[int, str]
    source: Path
    series: str = ""
    is_oriented: bool = True

    @property
    def classes(self) -> dict[int, str]:
        """Names of the labels by their value, each in one line, without the background."""
        return {value: _line(name) for value, name in self.labels.items() if value}


def segmentation_files(case: str, formats: Sequence[str] = ("nifti",), is_picture: bool = False) -> dict[str, str]:
    """Return the names of the files of a segmentation by format.

    Args:
        case: its name.
        formats: `nifti`, `seg.nrrd`, `dicom_seg` and `rtstruct`, or some of them.
        is_picture: the scan is a PNG, and `nifti` stands for another one.
    """
    endings = {**_ENDINGS, "nifti": f"_seg{PICTURE_SUFFIX}"} if is_picture else _ENDINGS
    return {name: f"{case}{endings[name]}" for name in formats}


def check_packages(formats: Sequence[str]) -> None:
    """Refuse formats whose package is not installed; see `segmentation_files`."""
    for name in formats:
        package = _PACKAGES.get(name)
        if package is not None and find_spec(package) is None:
            raise MissingPackageError(f"--formats {name} needs the package {package}, got none; pip install {package}")


def check_format(formats: Sequence[str], scan: str | Path) -> None:
    """Refuse formats that are DICOM's where a scan is none.

    Args:
        formats: see `segmentation_files`.
        scan: file, or folder of a DICOM series.
    """
    wanted = ", ".join(name for name in formats if name in _OF_DICOM)
    if wanted and not Path(scan).is_dir():
        raise InputError(
            f"{scan}: must be a folder with a DICOM series for --formats {wanted}, got a file; leave {wanted} out, or "
            "name the folder of the series"
        )


def label_tables(labels: Mapping[int, str]) -> dict[str, str]:
    """Return the texts of the tables of labels, by the name of their file.

    `labels.txt` is a label description of ITK-SNAP (Segmentation > Import Label Descriptions), `labels.ctbl` a color
    table of 3D Slicer, in the form of FreeSurfer's.

    Args:
        labels: names of the labels by their value, background included.
    """
    described = [_HEAD, "# IDX  R  G  B  A  VIS  MESH  LABEL"]
    colored = ["# Color table file", f"# {len(labels)} values"]
    for value, name in sorted(labels.items()):
        red, green, blue = label_color(value)
        shown, quoted = int(value > 0), _line(name).replace('"', "'")
        described.append(f'{value} {red} {green} {blue} {shown} {shown} {shown} "{quoted}"')
        colored.append(f"{value} {_line(name).replace(' ', '_')} {red} {green} {blue} {255 * shown}")
    texts = ("\n".join([*lines, ""]) for lines in (described, colored))
    return dict(zip(LABEL_TABLES, texts, strict=True))


def is_label_table(path: Path) -> bool:
    """Tell whether a file is a table of labels, as it lies beside segmentations."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline().rstrip() == _HEAD
    except OSError:
        return False


def label_xml(labels: Mapping[int, str]) -> bytes:
    """Return the names and colors of labels in the form in which Connectome Workbench keeps them in a NIfTI file.

    TotalSegmentator writes the same; programs that do not know the form pass over it. It is the content of an extension
    of the header with code 30 ("caret"), see https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields.

    Args:
        labels: names of the labels by their value, background included.
    """
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    for value, name in sorted(labels.items()):
        red, green, blue = (f"{part / 255:.6g}" for part in label_color(value))
        color = {"Red": red, "Green": green, "Blue": blue, "Alpha": str(int(value > 0))}
        ElementTree.SubElement(table, "Label", {"Key": str(value), **color}).text = _line(name)
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    return ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)


def _line(name: str) -> str:
    return " ".join(str(name).split())
