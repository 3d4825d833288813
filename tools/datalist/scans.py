"""Scans and labels that lie in folders: found, and paired by name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.cli import InputError, MissingFileError

__all__ = ["Scan", "is_pattern", "join_channels", "list_scans", "pair", "pair_training"]

_PREFIX = r"^(image|img|label|lbl|mask|segmentation|seg|organ|volume|vol)([-_]|(?=\d))"
_SUFFIX = r"[-_.](ct|gt|image|img|labels?|lbl|mask|mri?|organ|seg|segmentation)$"
_CHANNEL = r"_\d{4}$"  # of nnU-Net, at the end of images alone


@dataclass(frozen=True)
class Scan:
    """Scan, or label, by which name it pairs and of which patient it is, if that is known; a file for each channel."""

    name: str
    files: tuple[Path, ...]
    patient: str | None = None


def is_pattern(where: str) -> bool:
    return "*" in where or "?" in where


def list_scans(root: Path, where: str | None) -> list[Scan]:
    """Return the scans of a folder, or of patterns, in order of name."""
    if where is None:
        return []
    if is_pattern(where):
        return _match(root, [pattern.strip() for pattern in where.split(",")])
    from common.data import case_id

    return [Scan(case_id(file), (file,)) for file in _list_folder(root, where)]


def _list_folder(root: Path, folder: str) -> list[Path]:
    """Return the image files of a folder in order of name: volumes or, where there are none, PNG pictures."""
    from common.data.container import PICTURE_SUFFIX, SUFFIXES

    path = _inside(root, folder)
    if not path.is_dir():
        got = f"a link to {path.readlink()}, which does not exist" if path.is_symlink() else "nothing there"
        raise MissingFileError(f"{path}: must be a folder, got {'a file' if path.exists() else got}; name another one")
    visible = sorted(file for file in path.iterdir() if not file.name.startswith(".") and not file.is_dir())
    for suffixes in (SUFFIXES, PICTURE_SUFFIX):
        files = [file for file in visible if file.name.lower().endswith(suffixes)]
        if files:
            return [_check_link(file) for file in files]
    inner = [child.name for child in sorted(path.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    pattern = (Path(folder) / "*" / "image.nii.gz").as_posix()
    hint = f'; files in folders are named as --images "{pattern}"' if inner else ""
    raise InputError(f"{path}: must hold {', '.join((*SUFFIXES, PICTURE_SUFFIX))} files, got none{hint}")


def _inside(root: Path, name: str) -> Path:
    """Return a path below the root, by its name; links on the way may lead out."""
    relative = os.path.relpath(os.path.abspath(root / name), os.path.abspath(root))  # noqa: PTH100  (links stay)
    if Path(relative).parts[:1] == ("..",):
        raise InputError(f"{root / name}: must lie inside {root}, got a folder outside; put a link to it there")
    return root / relative


def _check_link(file: Path) -> Path:
    if file.is_symlink() and not file.exists():
        raise MissingFileError(f"{file}: must exist, is a link to {file.readlink()}, which does not exist")
    return file


def _match(root: Path, patterns: Sequence[str]) -> list[Scan]:
    """Return the scans whose files match the patterns, one for each channel, by what the wildcards stand for."""
    from common.data.container import PICTURE_SUFFIX, SUFFIXES

    if not all(map(is_pattern, patterns)):
        raise InputError(f"every pattern must have a *, got {', '.join(patterns)}; separate patterns by commas")
    channels: list[dict[str, tuple[Path, str | None]]] = []
    for pattern in patterns:
        if "**" in pattern:
            raise InputError(f"{pattern}: a * must stand for one folder, got **; write */* for two")
        parts = _inside(root, pattern).relative_to(root).parts
        found: list[tuple[Path, list[str], str | None]] = [(root, [], None)]
        for depth, part in enumerate(parts):
            regex = re.compile("".join({"*": "(.*)", "?": "(.)"}.get(letter, re.escape(letter)) for letter in part))
            is_folder = depth < len(parts) - 1
            found = [
                (child, [*stars, *match.groups()], patient or (child.name if is_folder and match.groups() else None))
                for folder, stars, patient in found
                for child in sorted(folder.iterdir())
                if not child.name.startswith(".") and (child.is_dir() if is_folder else not child.is_dir())
                if (match := regex.fullmatch(child.name))
            ]
        kinds = (*SUFFIXES, PICTURE_SUFFIX)
        files = [(file, stars, who) for file, stars, who in found if file.name.lower().endswith(kinds)]
        if not files:
            raise InputError(f"{root / pattern}: must match {', '.join(kinds)} files, got none; look at the pattern")
        named: dict[str, tuple[Path, str | None]] = {}
        for file, stars, who in files:
            other = named.setdefault("/".join(stars), (_check_link(file), who))
            if other[0] != file:
                raise InputError(f"{file}: only one file must match {pattern} for one name, got also {other[0]}")
        channels.append(named)
    for pattern, named in zip(patterns, channels, strict=True):
        for name, (file, _) in channels[0].items():
            if name not in named:
                raise InputError(f"{file}: must have a file for each channel, got none that matches {pattern}; add it")
        for name, (file, _) in named.items():
            if name not in channels[0]:
                raise InputError(f"{file}: must have a file for each channel, got none that matches {patterns[0]}")
    return [
        Scan(name, tuple(named[name][0] for named in channels), channels[0][name][1]) for name in sorted(channels[0])
    ]


def pair_training(
    images: list[Scan], labels: list[Scan], num_channels: int
) -> tuple[list[tuple[Scan, Scan]], list[Scan], bool]:
    """Pair images and labels, and find out whether the names of the images end in a channel.

    Args:
        images: files of images, or of their channels.
        labels: of these images.
        num_channels: of an image, as far as is known; 1 may be more.

    Returns:
        Pairs of image and label, images without a label, and whether names of files end in a channel.
    """
    forms = [images]
    if _end_in_channel(images):
        forms = [_group(images)] if num_channels > 1 else [images, _group(images)]

    def num_found(form: list[Scan], key: Callable[[str], str]) -> int:
        return len({key(image.name) for image in form} & {key(label.name) for label in labels})

    fitting = [
        form for key in (_exact, _strip) for form in forms if num_found(form, key) == len({key(k.name) for k in labels})
    ]
    form = fitting[0] if fitting else max(forms, key=lambda form: num_found(form, _strip))
    has_channels = form is not images
    return *pair(
        join_channels(images, num_channels if num_channels > 1 else None) if has_channels else images, labels
    ), (has_channels)


def _end_in_channel(scans: Sequence[Scan]) -> bool:
    return bool(scans) and all(len(scan.files) == 1 and re.search(_CHANNEL, scan.name) for scan in scans)


def _group(images: Sequence[Scan]) -> list[Scan]:
    """Return the cases that there are when names end in a channel, be all channels there or not."""
    cases: dict[str, list[Path]] = {}
    for image in images:
        cases.setdefault(re.sub(_CHANNEL, "", image.name), []).extend(image.files)
    return [Scan(name, tuple(files)) for name, files in cases.items()]


def join_channels(images: list[Scan], num_channels: int | None) -> list[Scan]:
    """Return one scan for the files `<case>_0000`, `<case>_0001` and so on of each case; others stay as they are.

    Args:
        images: files of images, or of their channels.
        num_channels: that each case must have; None: as many as the first one.
    """
    from common.data import list_channels

    if not _end_in_channel(images):
        return images
    cases = list_channels([file for image in images for file in image.files], num_channels)
    return [Scan(name, tuple(files)) for name, files in cases.items()]


def _exact(name: str) -> str:
    return name


def _strip(name: str) -> str:
    """Return a name without common parts at its ends, in lower case."""
    return re.sub(_SUFFIX, "", re.sub(_PREFIX, "", name.casefold()))


def pair(images: list[Scan], labels: list[Scan], what: str = "label") -> tuple[list[tuple[Scan, Scan]], list[Scan]]:
    """Return pairs of image and label, or what else it is called, and the images without one.

    Names pair whole where every label can; else up to the case of letters and common parts at their ends.
    """
    is_exact = {label.name for label in labels} <= {image.name for image in images}
    key = _exact if is_exact else _strip
    label_of, image_of = _index(labels, key), _index(images, key)
    orphans = [label.files[0] for name, label in label_of.items() if name not in image_of]
    if orphans:
        raise InputError(
            f"{orphans[0]}: {what} must have an image, got none ({len(orphans)} such {what}s in all); give both "
            "one name"
        )
    pairs = [(image, label_of[name]) for name, image in image_of.items() if name in label_of]
    return pairs, [image for name, image in image_of.items() if name not in label_of]


def _index(scans: list[Scan], key: Callable[[str], str]) -> dict[str, Scan]:
    """Return scans by the key of their name."""
    found: dict[str, list[Scan]] = {}
    for scan in scans:
        found.setdefault(key(scan.name), []).append(scan)
    for name, same in found.items():
        if len(same) > 1:
            files = [scan.files[0].name for scan in same]
            raise InputError(f"{same[0].files[0]}: only one file must be called {name!r}, got {files}; rename one")
    return {name: same[0] for name, same in found.items()}
