"""Cost of reading scans with all checks, beside MONAI's own loading."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from monai.transforms import LoadImaged

from common.data import Record, check_header, check_image, make_phantom
from common.transforms import LoadVolumesd

from .measure import Row, Timer

__all__ = ["all_rows", "header_row", "loading_row"]

_NUM_SCANS = 20


def all_rows(timer: Timer, quick: bool) -> list[Row]:
    """Return all rows: of scans of the folder `SCANS_DIR` where it is set, and else of a phantom as large as a CT."""
    with TemporaryDirectory() as folder:
        scans = sorted(Path(os.environ.get("SCANS_DIR", folder)).glob("head_neck_ct/imagesTr/*.nii.gz"))[:_NUM_SCANS]
        scans = scans or [_write_scan(Path(folder), 2 if quick else 8)]
        return [loading_row(scans, timer), header_row(scans, timer)]


def loading_row(scans: Sequence[Path], timer: Timer) -> Row:
    """Compare loading with all checks with MONAI's loading, a second pass for the checksum and a search for NaN."""
    load = LoadVolumesd("image", Record(modality=["CT"]))
    plain = LoadImaged("image", image_only=True, ensure_channel_first=True)

    def read_twice() -> None:
        for scan in scans:
            image = plain({"image": str(scan)})["image"]
            check_image(image.as_tensor().numpy(), scan)
            with gzip.open(scan) as file:
                while file.read(1 << 16):
                    pass

    sides = {
        "one reader": lambda: [load({"image": str(scan)}) for scan in scans],
        "LoadImaged, then checks": read_twice,
    }
    return timer.compare(f"load {len(scans)} scan(s) and check them", sides, "scans/s", len(scans))


def header_row(scans: Sequence[Path], timer: Timer) -> Row:
    """Compare the checks of a header with `nibabel.load`, which reads it and checks little."""
    sides = {
        "check_header": lambda: [check_header(scan) for scan in scans],
        "nibabel.load": lambda: [nib.load(scan) for scan in scans],
    }
    return timer.compare(f"look at {len(scans)} header(s)", sides, "headers/s", len(scans))


def _write_scan(folder: Path, scale: int) -> Path:
    """Write a phantom of 64 voxels a side, enlarged: 512 for a scale of 8."""
    image, _, affine = make_phantom(0)
    voxels = image.repeat(scale, 0).repeat(scale, 1).repeat(scale, 2)
    voxels += np.random.RandomState(0).randint(-20, 20, voxels.shape).astype(np.int16)
    path = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(voxels, affine @ np.diag([1 / scale] * 3 + [1.0])), path)
    return path
