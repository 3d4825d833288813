"""Laws of what goes with a segmentation: the names of its files, and the tables of its labels."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from common.cli.options import FORMATS
from common.data import (
    check_format,
    check_packages,
    label_color,
    label_tables,
    label_xml,
    segmentation,
    segmentation_files,
)
from common.data.segmentation import is_label_table

LABELS = {0: "background", 1: "liver", 2: 'left "kidney"\n& cyst', 300: "Größe <1>"}
ALL = ("nifti", "seg.nrrd", "dicom_seg", "rtstruct")


def test_every_format_that_the_option_takes_has_a_file_of_its_own():
    assert segmentation_files("a.b", ALL) == {
        "nifti": "a.b_seg.nii.gz",
        "seg.nrrd": "a.b.seg.nrrd",
        "dicom_seg": "a.b_seg.dcm",
        "rtstruct": "a.b_rtstruct.dcm",
    }
    FORMATS.check("formats", ALL)
    assert segmentation_files("a", ["nifti", "seg.nrrd"], is_picture=True)["nifti"] == "a_seg.png"


@pytest.mark.parametrize("value", [[], ["nifti", "nifti"], ["nii"], "nifti", None])
def test_other_formats_are_refused_with_the_way_to_write_them(value):
    with pytest.raises((TypeError, ValueError), match=r"formats must be a list of 1 or more .*\['nifti','seg.nrrd'\]"):
        FORMATS.check("formats", value)


def test_the_table_for_itk_snap_has_the_value_color_and_name_of_each_label():
    lines = [line for line in label_tables(LABELS)["labels.txt"].splitlines() if not line.startswith("#")]
    for line, (value, name) in zip(lines, LABELS.items(), strict=True):
        *numbers, quoted = line.split(maxsplit=7)
        assert [*map(int, numbers[:4])] == [value, *label_color(value)]
        assert [*map(int, numbers[4:])] == 3 * [int(value > 0)]
        assert quoted == f'"{" ".join(name.split())}"'.replace('"kidney"', "'kidney'")


def test_the_table_for_slicer_has_them_too_and_names_without_spaces():
    lines = [line for line in label_tables(LABELS)["labels.ctbl"].splitlines() if not line.startswith("#")]
    for line, (value, name) in zip(lines, LABELS.items(), strict=True):
        number, word, *color = line.split()
        assert (int(number), word.replace("_", " ")) == (value, " ".join(name.split()))
        assert [*map(int, color)] == [*label_color(value), 255 if value else 0]


def test_only_our_own_table_tells_that_a_folder_holds_segmentations(tmp_path):
    """ITK-SNAP's own file, which users have beside their scans, begins with a line of signs."""
    path = tmp_path / "labels.txt"
    assert not is_label_table(path)
    path.write_text(label_tables(LABELS)["labels.txt"], encoding="utf-8")
    assert is_label_table(path)
    path.write_text(f"{48 * '#'}\n{label_tables(LABELS)['labels.txt']}", encoding="utf-8")
    assert not is_label_table(path)


def test_the_extension_of_nifti_is_what_connectome_workbench_writes():
    root = ElementTree.fromstring(label_xml(LABELS))
    assert root.tag == "CaretExtension" and root.findtext("VolumeInformation/VolumeType") == "Label"
    labels = root.findall("VolumeInformation/LabelTable/Label")
    assert {int(label.attrib["Key"]): label.text for label in labels} == {
        value: " ".join(name.split()) for value, name in LABELS.items()
    }
    for label in labels:
        color = [round(255 * float(label.attrib[name])) for name in ("Red", "Green", "Blue")]
        assert tuple(color) == label_color(int(label.attrib["Key"]))
    assert [label.attrib["Alpha"] for label in labels] == ["0", "1", "1", "1"]


def test_what_is_no_dicom_has_no_dicom_object(tmp_path):
    scan = tmp_path / "scan.nii.gz"
    check_format(["nifti", "seg.nrrd"], scan)
    check_format(["rtstruct"], tmp_path)
    with pytest.raises(ValueError, match=r"scan.nii.gz: must be a folder .* for --formats rtstruct, got a file; leave"):
        check_format(["nifti", "rtstruct"], scan)


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr(segmentation, "find_spec", lambda name: None)
    check_packages(["nifti", "seg.nrrd", "rtstruct"])
    with pytest.raises(ImportError, match="--formats dicom_seg needs the package highdicom, got none; pip install hi"):
        check_packages(["dicom_seg"])
