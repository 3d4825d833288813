"""Segment one scan as is usual in MONAI, for comparison: the network is untrained, only its costs matter.

    python -m tools.experiments.usual_scan SCAN OUTPUT_DIR [--voxel 4] [--classes 6] [--overlap 0.25] [--device cpu]

The scan is resampled, a `BasicUNet` looks at it through a sliding window, `Invertd` brings what it says of each class
back to the scan's own voxels, and the largest is written. A line tells what of this the network takes.
"""

from __future__ import annotations

import time
from pathlib import Path

from common.cli import MissingFileError, check_choice
from common.cli.options import POSITIVE, POSITIVE_INT, PROPER_FRACTION
from tools._command import run_command

__all__ = ["usual_scan"]


def usual_scan(
    scan: str, output_dir: str, *, voxel: float = 4, classes: int = 6, overlap: float = 0.25, device: str = "cpu"
) -> None:
    """Segment a CT with an untrained `BasicUNet`.

    Args:
        scan: a CT.
        output_dir: folder for the segmentation.
        voxel: edge of the network's voxels in mm.
        classes: classes with the background.
        overlap: of neighboring windows of 96³ voxels.
        device: `cpu` or `cuda`.
    """
    POSITIVE.check("voxel", voxel)
    POSITIVE_INT.check("classes", classes)
    PROPER_FRACTION.check("overlap", overlap)
    check_choice("device", device, ("cpu", "cuda"))
    if not Path(scan).is_file():
        raise MissingFileError(f"scan must be a file, got {scan}")
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import BasicUNet
    from monai.transforms import (
        AsDiscreted,
        Compose,
        EnsureChannelFirstd,
        Invertd,
        LoadImaged,
        Orientationd,
        SaveImaged,
        ScaleIntensityRanged,
        Spacingd,
    )

    prepare = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", "RAS", labels=None),
            Spacingd("image", (voxel,) * 3, mode="bilinear"),
            ScaleIntensityRanged("image", -450, 1350, 0, 1, clip=True),
        ]
    )
    finish = Compose(
        [
            Invertd("pred", prepare, "image", nearest_interp=False),
            AsDiscreted("pred", argmax=True),
            SaveImaged("pred", output_dir=output_dir, output_dtype="uint8", print_log=False),
        ]
    )
    network = BasicUNet(3, 1, classes).eval().to(device)
    inferer = SlidingWindowInferer(96, overlap=overlap, mode="gaussian", sw_device=device, device="cpu")
    data = prepare({"image": scan})
    began = time.perf_counter()
    with torch.inference_mode():
        data["pred"] = inferer(data["image"][None], network)[0]
    seconds = time.perf_counter() - began
    finish(data)
    print(f"BasicUNet, {'x'.join(map(str, data['image'].shape[1:]))} voxels, the network alone {seconds:.1f} s")


if __name__ == "__main__":
    run_command(usual_scan)
