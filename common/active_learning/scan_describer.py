"""Descriptors of scans from the files of a bundle, kept on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.utils import ensure_tuple
from torch import nn
from tqdm import tqdm

from common.cli import InputError, MissingFileError, is_scratch
from common.cli.texts import express_texts
from common.data import Paths, Record, load_record, write_atomically
from common.data.record import find_record
from common.training import load_network

from .choice import next_scans
from .scan_description import describe_scan

__all__ = ["ScanDescriber", "load_describer"]

logger = logging.getLogger(__name__)

_SUFFIXES = (".yaml", ".yml", ".json")


class ScanDescriber:
    """Describe scans by what a network sees in them, and remember it.

    A descriptor is kept under the path, the size and the time of change of its scan, so that a scan that was replaced
    is described anew. A scan is the path of its file, or the paths of several with a channel in each.

    Args:
        network: moved nowhere.
        preprocessing: takes `{"image": scan}` and returns the image of shape `(C, H, W, D)` under the same key.
        cache_path: file of the descriptors, one for each network and preprocessing.
        axis: see `describe_scan`.
        device: of the network.
        channels: of a scan.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Callable[[dict[str, Any]], Mapping[str, Any]],
        cache_path: str | Path,
        axis: int = 2,
        device: str | torch.device = "cpu",
        channels: int = 1,
    ) -> None:
        self.network = network.eval()
        self.preprocessing = preprocessing
        self.cache_path = Path(cache_path)
        self.axis = axis
        self.device = torch.device(device)
        self.channels = channels
        self.known: dict[str, torch.Tensor] = {}
        if self.cache_path.is_file():
            self.known = torch.load(self.cache_path, weights_only=True)

    def __call__(self, scan: Paths) -> torch.Tensor:
        """Return the descriptor of a scan, of shape `(F,)`."""
        paths = [str(path) for path in ensure_tuple(scan)]
        states = [(Path(path).resolve(), Path(path).stat()) for path in paths]
        key = "|".join(f"{file}:{state.st_size}:{state.st_mtime_ns}" for file, state in states)
        if key not in self.known:
            image = self.preprocessing({"image": paths if len(paths) > 1 else paths[0]})["image"]
            self.known[key] = describe_scan(self.network, image.to(self.device), self.axis)
            write_atomically(self.cache_path, lambda temporary: torch.save(self.known, temporary))
        return self.known[key]

    def choose(
        self, labeled: Sequence[Paths], unlabeled: Sequence[Paths], count: int = 1, criterion: str = "k_medoids"
    ) -> list[tuple[str, float]]:
        """Choose unlabeled scans to label, in that order.

        Args:
            labeled: scans. One that cannot be described is left out, with a warning.
            unlabeled: likewise.
            count: see `next_scans`, also for `criterion`.

        Returns:
            Paths, the first one of scans with several, none if no unlabeled scan can be described, and their distances
            as those of `next_scans`.
        """
        scans = {str(ensure_tuple(scan)[0]): scan for scan in (*labeled, *unlabeled)}
        candidates = {str(ensure_tuple(scan)[0]) for scan in unlabeled}
        descriptors: dict[str, torch.Tensor] = {}
        for path, scan in tqdm(sorted(scans.items()), desc="describing scans", disable=None):
            try:
                descriptors[path] = self(scan)
            except (OSError, RuntimeError, ValueError) as error:
                logger.warning("%s cannot be described and is left out: %s", path, error)
        paths = list(descriptors)
        known = [index for index, path in enumerate(paths) if path not in candidates]
        if len(known) == len(paths):
            return []
        chosen = next_scans(torch.stack(list(descriptors.values())), known, count, criterion)
        return [(paths[index], distance) for index, distance in chosen]


def load_describer(
    bundle_root: str | Path, override_files: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> ScanDescriber:
    """Read what describes scans from a bundle: its pretrained weights or, where there are none, its trained ones.

    Pretrained weights come first since they stay what they are when the model is trained again: so does the order of
    the scans, and none is described twice. They are what `pretrained` names in the bundle's `train.yaml`, and reach the
    network by its `transfer`; of any other bundle, `models/model.pt` is taken. The preprocessing is that of
    `inference.yaml`. Descriptors are kept in `models/scan_descriptors`.

    Args:
        bundle_root: folder of the bundle.
        override_files: configs given last, relative to the bundle, as to its workflows.
        options: values by id that override the configs.

    Raises:
        FileNotFoundError: when there are no weights, or no `inference.yaml`.
        ValueError: when an option is unknown.
    """
    root = Path(bundle_root).absolute()
    settings = express_texts({**(options or {}), "bundle_root": str(root)})
    files = [root / name for name in override_files]
    inference = _read(root, "inference", files)
    if inference is None:
        raise MissingFileError(
            f"{root}: bundle_root must hold configs/inference.yaml, got no such file; name the bundle's folder"
        )
    training = _read(root, "train", files)
    unknown = [name for name in settings if name not in inference and (training is None or name not in training)]
    if unknown:
        raise InputError(
            f"options must be ids of the bundle's configs, got {unknown}; `python -m tools.options` shows them"
        )
    _override(inference, settings)
    models = Path(inference.get_parsed_content("ckpt_dir")) if "ckpt_dir" in inference else root / "models"
    weights: Path | None = None
    if training is not None and "transfer" in training and "pretrained" in training:
        _override(training, settings)
        pretrained = training.get_parsed_content("pretrained")
        weights = None if is_scratch(pretrained) or not Path(pretrained).is_file() else Path(pretrained)
    if weights is not None and training is not None:
        labels = {0: "background", 1: "anything"}  # the classes are not known yet, and nothing is segmented
        has_record = find_record(weights.parent) is not None
        _override(training, {"labels": labels, "modality": load_record(weights).modality if has_record else [""]})
        network = training.get_parsed_content("transfer")
        if not has_record:  # beside pretrained weights, earlier versions left none for slices
            _override(inference, {"record": Record(labels)})
        _override(inference, express_texts({"ckpt_dir": str(weights.parent), "weights": str(weights)}))
    else:
        weights = models / "model.pt"
        if not weights.is_file():
            raise MissingFileError(
                f"{weights}: weights must exist, got neither these nor pretrained ones; train or "
                "pretrain first, or pass --ckpt_dir"
            )
        network = load_network(inference.get_parsed_content("network_def"), weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inferer = inference.get_parsed_content("inferer")
    axis = getattr(inferer, "axis", getattr(inferer, "spatial_dim", 2))
    recipe = [weights.read_bytes(), *(path.read_bytes() for path in _configs(root, files)), repr(settings).encode()]
    digest = hashlib.blake2b(b"".join(recipe), digest_size=12).hexdigest()
    logger.info("scans are described by %s", weights)
    return ScanDescriber(
        network.to(device),
        inference.get_parsed_content("preprocessing"),
        models / "scan_descriptors" / f"{digest}.pt",
        axis,
        device,
        len(inference.get_parsed_content("modality")) if "modality" in inference else 1,
    )


def _configs(root: Path, override_files: Sequence[Path]) -> list[Path]:
    found = [root / "configs" / f"{name}{suffix}" for name in ("inference", "train") for suffix in _SUFFIXES]
    return [*(path for path in found if path.is_file()), *override_files]


def _read(root: Path, name: str, override_files: Sequence[Path]) -> ConfigParser | None:
    """Return a config of a bundle with those of its ids that other files override; None when there is none."""
    path = next((path for path in _configs(root, []) if path.stem == name), None)
    if path is None:
        return None
    parser = ConfigParser()
    parser.read_config(path)
    for file in override_files:
        _override(parser, ConfigParser.load_config_file(file))
    return parser


def _override(parser: ConfigParser, values: Mapping[str, Any]) -> None:
    """Set those ids that a config has."""
    for name, value in values.items():
        if name in parser:
            parser[name] = value
