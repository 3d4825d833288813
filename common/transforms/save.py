"""Segmentations as files, each in the form of its image."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
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
from common.data import (
    Segmentation,
    case_name,
    check_format,
    corner_distance,
    label_tables,
    label_xml,
    segmentation_files,
    smallest_type,
    write_atomically,
    write_dicom_seg,
    write_rtstruct,
    write_seg_nrrd,
    write_together,
)
from common.data.container import PICTURE_SUFFIX

from .invert import InvertProbabilitiesd

__all__ = ["SaveConfidenced", "SaveProbabilitiesd", "SaveSegmentationd"]

_TOLERANCE = 0.1  # voxels, by which a qform may miss the grid
_STEPS = 65535  # of a probability
_SPACE_UNITS = 8  # of NIfTI's xyzt_units, whose rest is the unit of length, or 0
_UNKNOWN, _SCANNER, _ALIGNED = 0, 1, 2  # codes of NIfTI; the last one: to another file, whatever its own place means


class SaveSegmentationd(SaveImaged):
    """Write label maps and probabilities as files that have the name of the case, whole or not at all.

    A label map becomes a file of each format, all of them or none; beside them lie tables of the labels, see
    `label_tables`. The NIfTI file (`<case>_seg.nii.gz`) has the shape of the file of the image and its grid as it is
    stated there: what is unknown, such as an orientation without a code, stays unknown. An extension of its header has
    the names and colors of the labels, see `label_xml`. The label map of a PNG is a PNG with the same pixels, whose
    gray values are the labels, up to 255: what image editors and `dataset.json` take. Probabilities, several with the
    classes along the last axis, are always NIfTI, `<case>_<postfix>.nii.gz`.

    It is a `SaveImaged` so that MONAI Label, which writes its own files, leaves it out.

    Args:
        keys: label maps of shape `(1, H, W, D)` with whole numbers, or probabilities of shape `(num_classes, H, W, D)`.
        output_dir: folder for the files.
        labels: names of the labels by their value, background included; None: they are not known, nor written.
        formats: of label maps, see `segmentation_files`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        output_postfix: str = "seg",
        labels: Mapping[int, str] | None = None,
        formats: Sequence[str] = ("nifti",),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, allow_missing_keys=allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.output_postfix = output_postfix
        self.labels = labels
        self.formats = formats

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            save = self._save_probabilities if data[key].is_floating_point() else self._save_label_map
            save(data[key])
        return dict(data)

    def _save_probabilities(self, volume: MetaTensor) -> None:
        array = np.moveaxis(volume.cpu().numpy(), 0, -1)
        image = _make_nifti(array[..., 0] if array.shape[-1] == 1 else array, volume)
        path = self.output_dir / f"{case_name(volume.meta)}_{self.output_postfix}.nii.gz"
        write_atomically(path, lambda temporary: nib.save(image, temporary))

    def _save_label_map(self, volume: MetaTensor) -> None:
        meta = volume.meta
        source = Path(str(meta["filename_or_obj"]))
        check_format(self.formats, source)
        segmentation = Segmentation(
            label_map=smallest_type(volume.as_tensor()[0]).cpu().numpy(),
            affine=np.asarray(volume.affine, dtype=float),
            labels=self.labels or {value: f"label_{value}" for value in range(int(volume.max()) + 1)},
            source=source,
            series=str(meta.get("series", "")),
            is_oriented=bool(meta.get("is_oriented", True)),
        )
        is_picture = source.suffix.lower() == PICTURE_SUFFIX
        files = segmentation_files(case_name(meta), self.formats, is_picture)
        if is_picture and "nifti" in files and (highest := segmentation.label_map.max()) > np.iinfo(np.uint8).max:
            path = self.output_dir / files["nifti"]
            raise InputError(f"{path}: labels of a PNG must be at most 255, got {highest}; convert the scans")
        writers: dict[str, Callable[[Path], object]] = {
            "nifti": lambda path: self._write_nifti(path, segmentation, volume),
            "seg.nrrd": lambda path: write_seg_nrrd(path, segmentation),
            "dicom_seg": lambda path: write_dicom_seg(path, segmentation),
            "rtstruct": lambda path: write_rtstruct(path, segmentation),
        }
        if is_picture:
            writers["nifti"] = Image.fromarray(segmentation.label_map[..., 0].T.astype(np.uint8)).save
        for name, text in label_tables(self.labels).items() if self.labels else ():
            write_atomically(self.output_dir / name, partial(_write_text, text=text), shared=True)
        write_together({self.output_dir / file: writers[name] for name, file in files.items()})

    def _write_nifti(self, path: Path, segmentation: Segmentation, volume: MetaTensor) -> None:
        is_flat = len(volume.meta["spatial_shape"]) == 2
        image = _make_nifti(segmentation.label_map[..., 0] if is_flat else segmentation.label_map, volume)
        image.header.set_intent("label")
        if self.labels:
            image.header.extensions.append(nib.nifti1.Nifti1Extension("caret", label_xml(self.labels)))
        nib.save(image, path)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _make_nifti(array: np.ndarray, volume: MetaTensor) -> nib.Nifti1Image:
    """Return an image of voxels on the grid of a volume."""
    image = nib.Nifti1Image(array, None)  # with an affine, nibabel would write codes of its own
    _state_grid(image, np.asarray(volume.affine, dtype=float), volume.meta)
    return image


def _state_grid(image: nib.Nifti1Image, affine: np.ndarray, meta: Mapping[str, Any]) -> None:
    """Say where the voxels lie, with the codes of the scan's header if that is NIfTI; what it leaves open stays so."""
    header, stated = image.header, meta.get("nifti") or {}
    if not stated or int(stated["xyzt_units"]) % _SPACE_UNITS:
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
        """Write those of the classes from 1 on."""
        restored = [cast(MetaTensor, probability) for probability in self._restore(probabilities, image)]
        classes = torch.cat([probability.clamp(0, 1) for probability in restored])
        background = self._background(classes.sum(dim=0, keepdim=True), classes.amax(dim=0, keepdim=True))
        shares = torch.cat((background, classes))
        self._write("probabilities", shares / shares.sum(dim=0, keepdim=True), restored[0])

    def _background(self, total: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        """Return the probability of the background, given the sum and the largest of those of the classes from 1 on."""
        return (1 - (total if self.has_background else largest)).clamp(min=0)

    def _write(self, name: str, shares: torch.Tensor, volume: MetaTensor) -> None:
        """Write numbers from 0 to 1, of shape `(C, H, W, D)`, on the grid of a volume."""
        steps = np.moveaxis((shares * _STEPS).round().cpu().numpy().astype(np.uint16), 0, -1)
        nifti = _make_nifti(steps[..., 0] if len(shares) == 1 else steps, volume)
        nifti.header.set_slope_inter(1 / _STEPS, 0)
        path = self.output_dir / f"{case_name(volume.meta)}_{name}.nii.gz"
        write_atomically(path, lambda temporary: nib.save(nifti, temporary))


class SaveConfidenced(SaveProbabilitiesd):
    """Write the probability of the most probable class of each voxel as `<name of the case>_confidence.nii.gz`.

    It is the largest of those that `SaveProbabilitiesd` writes; one class is resampled at a time.
    """

    def _save(self, probabilities: torch.Tensor, image: MetaTensor) -> None:
        restored = self._restore(probabilities, image)
        first = cast(MetaTensor, next(restored))
        total = largest = first.as_tensor().clamp(0, 1)
        for found in restored:
            probability = cast(MetaTensor, found).as_tensor().clamp(0, 1)
            total, largest = total + probability, largest.maximum(probability)
        background = self._background(total, largest)
        self._write("confidence", largest.maximum(background) / (total + background), first)
