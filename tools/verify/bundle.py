"""Bundle on disk: its configs and metadata, read once, its files, and the schema and changelog of its metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv

from common.cli import root_cause
from tools.verify.config_ids import walk

__all__ = ["METADATA", "SCRIPTS", "Bundle", "check_files", "check_metadata", "read_bundle", "summary"]

METADATA = "metadata.json"
SCRIPTS = "scripts"  # the only folder that may hold Python: MONAI Label forgets its modules between bundles
_ALONE = {"train", "inference"}  # complete files of every bundle
_SCHEMA = Path(__file__).resolve().parent / "metadata_schema.json"
_LIBRARY = "common."  # of this repository: what begins the names of its components
_VERSIONS = "model_info.json"  # of the Model Zoo, beside its bundles
_LONGEST = 200  # characters of a summary


@dataclass(frozen=True, eq=False)
class Bundle:
    """Contents of the files in `configs/`.

    Args:
        root: folder of the bundle.
        configs: contents by file name, without metadata.
        metadata: None when there is none to be read.
        unread: what is wrong with the files that could not be read.
    """

    root: Path
    configs: dict[str, dict[str, Any]]
    metadata: dict[str, Any] | None
    unread: list[str]

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def is_source(self) -> bool:
        """Whether its components are those of this repository: what is shared is the bundle that is exported from it.

        Its metadata describe an example; those of an export describe the weights.
        """
        items = (item for content in self.configs.values() for _, item in walk(content))
        return any(isinstance(item, dict) and str(item.get("_target_")).startswith(_LIBRARY) for item in items)

    @property
    def weights(self) -> Path:
        """Weights that inference uses, which may be missing."""
        return self.root / "models" / "model.pt"

    @property
    def workflows(self) -> list[str]:
        """Files that are complete on their own. The root of the bundle, which all of them must know, tells them."""
        return [name for name, content in self.configs.items() if Path(name).stem in _ALONE or "bundle_root" in content]

    @property
    def overrides(self) -> list[str]:
        """Files that come after others, and hold only what differs."""
        return [name for name in self.configs if name not in self.workflows]

    def find(self, stem: str) -> str | None:
        """Return the name of the config that has a name without its suffix."""
        return next((name for name in self.configs if Path(name).stem == stem), None)

    def merge(self, *names: str) -> dict[str, Any]:
        """Return what MONAI makes of files that come one after another, with the metadata.

        Raises:
            KeyError, IndexError, TypeError, ValueError: when an override does not fit what comes before it.
        """
        parser = ConfigParser({"_meta_": self.metadata or {}})
        for name in names:
            for key, value in deepcopy(self.configs[name]).items():
                merge_kv(parser, key, value)
        return parser.get()


def summary(error: BaseException) -> str:
    """Return what was wrong at the bottom of a chain of errors, in one short line."""
    error = root_cause(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def read_bundle(root: Path) -> Bundle:
    """Read the configs of a bundle; what cannot be read is left out, and noted."""
    contents: dict[str, dict[str, Any]] = {}
    unread = []
    for path in sorted((root / "configs").glob("*")):
        if path.suffix.lower().lstrip(".") not in ConfigParser.suffixes:
            continue
        try:
            content = ConfigParser.load_config_file(path)
        except Exception as error:  # whatever a parser makes of a broken file
            unread.append(f"configs/{path.name}: must be readable, got {summary(error)}")
            continue
        if isinstance(content, dict) and all(isinstance(key, str) for key in content):
            contents[path.name] = content
        else:
            unread.append(f"configs/{path.name}: must be a mapping of ids, got {type(content).__name__}")
    return Bundle(root, metadata=contents.pop(METADATA, None), configs=contents, unread=unread)


def check_files(bundle: Bundle) -> Iterator[str]:
    """Find files that are missing, cannot be read, or hold Python where none belongs."""
    yield from bundle.unread
    for name in (f"configs/{METADATA}", "docs/README.md", "LICENSE"):
        if not (bundle.root / name).is_file():
            yield f"{name}: must exist, got no such file"
    if not list((bundle.root / "configs").glob("inference.*")):
        yield "configs/inference.yaml: must exist (or as .json), got no such file"
    if not bundle.weights.is_file() and not bundle.is_source:
        yield "models/model.pt: must exist, got no such file"
    for list_file in sorted(bundle.root.glob("large_files.*")):
        for entry in ConfigParser.load_config_file(list_file)["large_files"]:
            if not (bundle.root / entry["path"]).is_file():
                remedy = "python -m monai.bundle download_large_files --bundle_path ."
                yield f"{entry['path']}: must exist, since {list_file.name} lists it, got no such file; {remedy}"
    for path in sorted(bundle.root.rglob("*.py")):
        place = path.relative_to(bundle.root)
        if place.parts[0] != SCRIPTS:
            yield f"{place}: must lie in {SCRIPTS}/, as all Python of a bundle, got {place.parent}/"


def check_metadata(bundle: Bundle) -> Iterator[str]:
    """Find what the Model Zoo's schema refuses, and a version that is not in the changelog or was used before."""
    import jsonschema  # which only those need who verify

    metadata = bundle.metadata
    if metadata is None:
        return
    schema = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    for error in sorted(jsonschema.Draft7Validator(schema).iter_errors(metadata), key=lambda error: error.json_path):
        id = "::".join(map(str, error.absolute_path)) or "it"
        yield f"configs/{METADATA}: {id} must fit the schema, got {error.message.splitlines()[0]}"
    changelog, version = metadata.get("changelog", {}), metadata.get("version")
    if version not in changelog:
        yield f"configs/{METADATA}: changelog must have the version {version}, got {[*changelog]}"
    versions = bundle.root.parent / _VERSIONS
    if versions.is_file() and f"{bundle.name}_v{version}" in json.loads(versions.read_text(encoding="utf-8")):
        yield f"configs/{METADATA}: version must be one that {_VERSIONS} does not have, got {version}; raise it"
