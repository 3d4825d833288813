"""Draw label maps over their scan, on three planes.

python -m tools.overlay SCAN SEGMENTATION [SEGMENTATION...] --output FILE.png [--window -160,240] [--ignore 255]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.cli import InputError, MissingFileError
from tools._command import run_command


def overlay(
    scan: str, *segmentations: str, output: str, window: Sequence[float] | None = None, ignore: int | None = None
) -> str:
    """Draw label maps over their scan, one row for each.

    Args:
        scan: file or DICOM folder.
        segmentations: files on the scan's grid, or on the same one in another order of axes.
        output: PNG file.
        window: lowest and highest intensity shown, separated by a comma; if not given, that of soft tissue in a CT
            whose labels lie in it, else the 1st and 99.5th percentile.
        ignore: value of voxels that are not labeled, which is not drawn.
    """
    import nibabel as nib
    import torch
    from monai.transforms import Orientation

    from common.cli.options import INT, NUMBER
    from common.data import LoadVolume, case_id
    from common.training import save_overlay

    INT.or_null.check("ignore", ignore)
    if window is not None:
        NUMBER.list.check("window", window)
        if len(window) != 2:
            raise InputError(f"window must be two intensities, got {list(window)}")
    if not segmentations:
        raise InputError("segmentations must be given after the scan, got none; --help shows how")
    for path in (scan, *segmentations):
        if not Path(path).exists():
            raise MissingFileError(f"{path}: must exist, got no such file; look at the spelling")
    names = [case_id(path) for path in segmentations]
    if len({*names}) < len(names):  # the same scan, segmented in several ways
        names = [f"{Path(path).resolve().parent.name}/{name}" for path, name in zip(segmentations, names, strict=True)]
    if len({*names}) < len(names):
        raise InputError(f"segmentations must differ in the names of their files or folders, got {names}; rename one")
    read = LoadVolume(allow_2d=True)
    image = read(scan)
    turn = Orientation("".join(map(str, nib.aff2axcodes(image.affine.numpy()))), labels=None)
    rows = {}
    for name, path in zip(names, segmentations, strict=True):
        label = turn(read(path))
        if label.shape != image.shape or not ((label.affine - image.affine).abs() < 1e-2).all():
            raise InputError(
                f"{name}: segmentation must lie on the grid of its scan, {tuple(image.shape[1:])}; name "
                "the scan that was segmented"
            )
        values = label.as_tensor().round().int()
        rows[name] = values if ignore is None else torch.where(values == ignore, 0, values)
    limits = None if window is None else (window[0], window[1])
    save_overlay(image, rows, output, limits, title=case_id(scan))
    return output


if __name__ == "__main__":
    run_command(overlay)
