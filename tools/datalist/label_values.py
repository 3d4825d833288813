"""Values in label files: named, and renumbered where they are not 0, 1, 2 and so on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.cli import InputError

__all__ = ["name_labels"]

_RENUMBERED = "labels_renumbered"


def name_labels(
    root: Path, labels: list[Path], names: list[str] | None, renumber: bool, ignore: int | None = None
) -> tuple[dict[str, str], dict[Path, Path], dict[str, Any]]:
    """Find the classes of some label files, and write renumbered ones where that is needed and asked for.

    The value of voxels that are not labeled, `ignore`, is no class and stays what it is.

    Returns:
        Names by value; new label files by the old ones; what dataset.json keeps of it.
    """
    segments = {label: _read_segments(label) for label in labels}
    if labels and all(segments.values()):
        wanted, maps = _map_segments(segments, names)
    elif names is not None and not renumber:
        wanted, maps = names, {}
    else:
        wanted, maps = _map_values(labels, names, ignore)
    named = {str(value): name for value, name in enumerate(wanted)}
    if ignore is not None:
        if ignore in range(len(wanted)):
            raise InputError(
                f"--ignore must be no class, which are 0 to {len(wanted) - 1}, got {ignore}; make it 255 in the files"
            )
        for values in maps.values():
            values[ignore] = ignore
    changed = {label: values for label, values in maps.items() if any(old != new for old, new in values.items())}
    if not changed:
        return named, {}, {}
    first = next(iter(changed))
    if not renumber:
        raise InputError(
            f"{first}: labels must be numbered 0, 1, 2 and so on, alike in all files, got {sorted(maps[first])} for "
            f"{', '.join(wanted[new] for old, new in sorted(maps[first].items()) if old != ignore)}; pass --renumber"
        )
    replaced = _write_renumbered(root, maps)
    written = {
        label.relative_to(root).as_posix(): {str(old): new for old, new in values.items()}
        for label, values in maps.items()
    }
    is_same = all(values == next(iter(written.values())) for values in written.values())
    return named, replaced, {"renumbered": next(iter(written.values())) if is_same else written}


def _map_values(
    labels: list[Path], names: list[str] | None, ignore: int | None
) -> tuple[list[str], dict[Path, dict[int, int]]]:
    """Return names of the classes, and the same map of the values in the files for each of them."""
    values = {0}.union(*(np.unique(_read_label(label)).tolist() for label in labels))
    ordered = [0, *sorted(values - {0, ignore})]
    if names is not None and len(names) != len(ordered):
        raise InputError(f"--label_names must name {len(ordered)} labels, {ordered}, got {','.join(names)}")
    made = ["background", *(f"label_{value}" for value in ordered[1:])]
    return names or made, {label: {value: new for new, value in enumerate(ordered)} for label in labels}


def _map_segments(
    segments: Mapping[Path, Mapping[str, int]], names: list[str] | None
) -> tuple[list[str], dict[Path, dict[int, int]]]:
    """Return names of the classes, and the map of the values in each file, by the names of its segments."""
    first_of: dict[str, int] = {}
    for values in segments.values():
        for name, value in values.items():
            first_of.setdefault(name, value)
    found = ["background", *sorted(first_of, key=lambda name: first_of[name])]
    wanted = found if names is None else names
    if names is not None and not {*found[1:]} <= {*names[1:]}:
        raise InputError(
            f"--label_names must hold background and the names of the segments, {', '.join(found[1:])}, got "
            f"{','.join(names)}; they come from the files when it is not given"
        )
    place = {name: value for value, name in enumerate(wanted)}
    return wanted, {
        label: {0: 0, **{value: place[name] for name, value in values.items()}} for label, values in segments.items()
    }


def _read_segments(label: Path) -> dict[str, int]:
    """Return the values of the segments of 3D Slicer by their names; none where the file has none.

    Raises:
        ValueError: when segments overlap, which takes a fourth dimension, or share a name or a value.
    """
    if not label.name.lower().endswith(".nrrd"):
        return {}
    fields: dict[str, str] = {}
    with label.open("rb") as file:
        for line in file:
            if not line.strip():
                break
            key, _, value = line.decode("utf-8", "replace").partition(":")
            fields[key.strip()] = value.removeprefix("=").strip()
    numbers = sorted(int(match[1]) for key in fields if (match := re.fullmatch(r"Segment(\d+)_Name", key)))
    if not numbers:
        return {}
    if fields.get("dimension") != "3":
        raise InputError(
            f"{label}: segments must not overlap, got an image of {fields.get('dimension')} dimensions; in 3D Slicer, "
            "export them as a labelmap"
        )
    pairs = [(fields[f"Segment{n}_Name"], int(fields.get(f"Segment{n}_LabelValue", n + 1))) for n in numbers]
    for what, values in (("names", [name for name, _ in pairs]), ("values", [value for _, value in pairs])):
        if len({*values}) < len(values):
            raise InputError(f"{label}: segments must have different {what}, got {pairs}; change them in 3D Slicer")
    return dict(pairs)


def _read_label(label: Path) -> np.ndarray:
    """Return the whole numbers of a label file, of shape `(1, H, W, D)`."""
    from common.data import check_label, read_volume

    return check_label(read_volume(label, allow_2d=True)[0], label)


def _write_renumbered(root: Path, maps: Mapping[Path, Mapping[int, int]]) -> dict[Path, Path]:
    """Write label files with other values on the same grids into a new folder, and return them by the old ones."""
    from common.data import write_folder

    if (root / _RENUMBERED).exists():
        raise InputError(f"{root / _RENUMBERED}: must not exist with --renumber, got one; remove it")
    names = {label: label.relative_to(root).as_posix() for label in maps}

    def write(folder: Path) -> None:
        for label, values in maps.items():
            target = folder / names[label]
            target.parent.mkdir(parents=True, exist_ok=True)
            _renumber(label, target, values)

    write_folder(root / _RENUMBERED, write)
    return {label: root / _RENUMBERED / name for label, name in names.items()}


def _renumber(source: Path, target: Path, values: Mapping[int, int]) -> None:
    """Write a label file with other values; its grid and the form of its header stay."""
    from common.data import check_label

    def change(array: np.ndarray) -> np.ndarray:
        whole = check_label(array, source)
        foreign = sorted({*np.unique(whole).tolist()} - {*values})
        if foreign:
            raise InputError(f"{source}: labels must be among {sorted(values)}, got also {foreign}; name them")
        changed = np.zeros(whole.shape, np.uint8 if max(values.values()) < 256 else np.int16)
        for old, new in values.items():
            changed[whole == old] = new
        return changed

    name = source.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        import nibabel as nib

        image: Any = nib.load(source)
        changed = change(np.asanyarray(image.dataobj))
        image.header.set_data_dtype(changed.dtype)
        image.header.set_slope_inter(1, 0)
        nib.save(type(image)(changed, image.affine, image.header), target)
    elif name.endswith(".png"):
        from PIL import Image

        with Image.open(source) as picture:
            Image.fromarray(change(np.asarray(picture))).save(target)
    else:
        import itk

        image = itk.imread(str(source))
        changed = itk.image_from_array(change(itk.array_from_image(image)))
        changed.CopyInformation(image)
        itk.imwrite(changed, str(target), compression=True)
