"""Draw label maps over their scan, on three planes.

python -m tools.overlay SCAN SEGMENTATION [SEGMENTATION...] --output FILE.png [--window -160,240]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage, Orientation

from common.data import case_id
from common.training import save_overlay
from tools._command import run_command


def overlay(scan: str, *segmentations: str, output: str, window: Sequence[float] | None = None, **unknown: Any) -> str:
    """Draw one row for each label map.

    Args:
        scan: file or DICOM folder.
        segmentations: files on the scan's grid, or on the same one in another order of axes.
        output: PNG file.
        window: lowest and highest intensity shown, separated by a comma; the 1st and 99.5th percentile if not given.
        unknown: refused.

    Returns:
        The PNG file.

    Raises:
        ValueError: when there is no label map, or one is not on the grid of the scan.
    """
    if unknown or not segmentations:
        raise ValueError(f"overlay must get a scan, segmentations and --output, got {sorted(unknown) or segmentations}")
    limits = _read_window(window)
    image = _read(scan)
    names = [case_id(path) for path in segmentations]
    if len({*names}) < len(names):  # the same scan, segmented in several ways
        names = [f"{Path(path).resolve().parent.name}/{name}" for path, name in zip(segmentations, names, strict=True)]
    if len({*names}) < len(names):
        raise ValueError(f"segmentations must differ in the names of their files or folders, got {names}")
    maps = {name: _read(path) for path, name in zip(segmentations, names, strict=True)}
    for name, label in maps.items():
        if label.shape != image.shape or not ((label.affine - image.affine).abs() < 1e-2).all():
            raise ValueError(f"{name}: segmentation must lie on the grid of its scan, {tuple(image.shape[1:])}")
    spacing = image.pixdim.tolist()
    rows = {name: label[0].numpy().round().astype(int) for name, label in maps.items()}
    save_overlay(image[0].numpy(), spacing, rows, output, limits, title=case_id(scan))
    return output


def _read_window(window: Any) -> tuple[float, float] | None:
    """Return two intensities, or nothing."""
    if window is None:
        return None
    is_pair = isinstance(window, list | tuple) and len(window) == 2
    if not is_pair or not all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in window):
        raise ValueError(f"window must be two intensities, separated by a comma, got {window!r}")
    return float(window[0]), float(window[1])


def _read(path: str) -> MetaTensor:
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: must exist, got no such file")
    return Compose([LoadImage(image_only=True, ensure_channel_first=True), Orientation("RAS", labels=None)])(path)


if __name__ == "__main__":
    run_command(overlay, "scan", "segmentations", "output")
