"""Segmentations as files, each in the form of its image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImaged
from PIL import Image

from common.cli import InputError
from common.data import case_name, corner_distance, write_atomically

from .invert import InvertProbabilitiesd

__all__ = ["SaveProbabilitiesd", "SaveSegmentationd"]

_TOLERANCE = 0.1  # voxels, by which a qform may miss the grid
_STEPS = 65535  # of a probability
_UNKNOWN, _SCANNER, _ALIGNED = 0, 1, 2  # codes of NIfTI; the last one: to another file, whatever its own place means


class SaveSegmentationd(SaveImaged):
    """Write label maps and probabilities as `<name of the case>_<postfix>`, whole or not at all.

    The label map of a PNG is a PNG with the same pixels, whose gray values are the labels, up to 255: what image
    editors and `dataset.json` take. Others, and probabilities (several with the classes along the last axis), become
    NIfTI (`.nii.gz`) with the shape of the file of the image and its grid as it is stated there: what is unknown, such
    as an orientation without a code, stays unknown. It is a `SaveImaged` so that MONAI Label, which writes its own
    files, leaves it out.

    Args:
        keys: label maps of shape `(1, H, W, D)` with whole numbers, or probabilities of shape `(num_classes, H, W, D)`.
        output_dir: folder for the files.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        output_postfix: str = "seg",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, allow_missing_keys=allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.output_postfix = output_postfix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            self._save(data[key])
        return dict(data)

    def _save(self, volume: MetaTensor) -> None:
        source = Path(str(volume.meta["filename_or_obj"]))
        array = np.moveaxis(volume.cpu().numpy(), 0, -1)
        is_label_map = array.dtype.kind in "iu"
        if array.shape[-1] == 1:
            array = array[..., 0]
        if is_label_map and len(volume.meta["spatial_shape"]) == 2:
            array = array[..., 0]
        path = self.output_dir / f"{case_name(volume.meta)}_{self.output_postfix}.nii.gz"
        if source.suffix.lower() == ".png" and is_label_map:
            path = path.with_name(path.name.removesuffix(".nii.gz") + ".png")
            if array.max() > np.iinfo(np.uint8).max:
                raise InputError(f"{path}: labels of a PNG must be at most 255, got {array.max()}; convert the scans")
            write_atomically(path, Image.fromarray(array.T.astype(np.uint8)).save)
            return
        image = nib.Nifti1Image(array, None)  # with an affine, nibabel would write codes of its own
        _state_grid(image, np.asarray(volume.affine, dtype=float), volume.meta)
        write_atomically(path, lambda temporary: nib.save(image, temporary))


def _state_grid(image: nib.Nifti1Image, affine: np.ndarray, meta: Mapping[str, Any]) -> None:
    """Say where the voxels lie, with the codes of the scan's header if that is NIfTI; what it leaves open stays so."""
    header, stated = image.header, meta.get("nifti") or {}
    header.set_xyzt_units("mm")
    if not meta.get("is_oriented", True) and stated:
        header.set_sform(affine, _UNKNOWN)
        header.set_qform(affine, _UNKNOWN, strip_shears=True)
        for name in set(stated) - {"pixdim", "xyzt_units"}:  # readers differ in what they make of them
            header[name] = stated[name]
        header["pixdim"][0] = stated["pixdim"][0]
        return
    code = _SCANNER if meta.get("is_oriented", True) else _ALIGNED
    header.set_sform(affine, int(stated.get("sform_code", code)))
    header.set_qform(affine, int(stated.get("qform_code", code)), strip_shears=True)
    if header["sform_code"] and corner_distance(affine, header.get_qform(), (*image.shape, 1, 1)[:3]) > _TOLERANCE:
        header["qform_code"] = _UNKNOWN  # a shear, which no quaternion can hold


class SaveProbabilitiesd(InvertProbabilitiesd):
    """Write the probability of each class, background included, as `<name of the case>_probabilities.nii.gz`.

    The file has the classes along its last axis, on the grid of the image, in steps of 1/65535. What the preprocessing
    cropped away is background.

    Args:
        keys: probabilities of shape `(num_classes, H, W, D)`, on the grid of the network; they stay as they are.
        transform: see `InvertProbabilitiesd`.
        output_dir: folder for the files.
        softmax: make probabilities of logits first.
        has_background: the first channel is the background, as after a softmax. Otherwise the channels are the classes
            from 1 on, as after a sigmoid for each class; the background has what the most probable one leaves, and all
            are divided by their sum.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: Compose,
        output_dir: str | Path,
        softmax: bool = False,
        has_background: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, transform, allow_missing_keys=allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.softmax = softmax
        self.has_background = has_background

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            values = data[key].float()
            values = values.softmax(dim=0) if self.softmax else values
            self._save(values[1:] if self.has_background else values, data[self.orig_keys])
        return dict(data)

    def _save(self, probabilities: torch.Tensor, image: MetaTensor) -> None:
        restored = [cast(MetaTensor, probability) for probability in self._restore(probabilities, image)]
        classes = torch.cat([probability.clamp(0, 1) for probability in restored])
        taken = classes.sum(dim=0, keepdim=True) if self.has_background else classes.amax(dim=0, keepdim=True)
        shares = torch.cat(((1 - taken).clamp(min=0), classes))
        shares = shares / shares.sum(dim=0, keepdim=True)
        steps = (shares * _STEPS).round().cpu().numpy().astype(np.uint16)
        volume = nib.Nifti1Image(np.moveaxis(steps, 0, -1), None)
        meta = restored[0].meta
        _state_grid(volume, np.asarray(restored[0].affine, dtype=float), meta)
        volume.header.set_slope_inter(1 / _STEPS, 0)
        path = self.output_dir / f"{case_name(meta)}_probabilities.nii.gz"
        write_atomically(path, lambda temporary: nib.save(volume, temporary))
