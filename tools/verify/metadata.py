"""Metadata of a bundle: the schema, and the changelog of their version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tools.verify.bundle import METADATA, Bundle

__all__ = ["check_metadata"]

_SCHEMA = Path(__file__).resolve().parent / "metadata_schema.json"


def check_metadata(bundle: Bundle) -> Iterator[str]:
    """Find what the Model Zoo's schema refuses, and a version without its entry in the changelog."""
    import jsonschema  # which only those need who verify

    metadata = bundle.metadata
    if metadata is None:
        return
    schema = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    for error in sorted(jsonschema.Draft7Validator(schema).iter_errors(metadata), key=lambda error: error.json_path):
        id = "::".join(map(str, error.absolute_path)) or "it"
        yield f"configs/{METADATA}: {id} must fit the schema, got {error.message.splitlines()[0]}"
    changelog = metadata.get("changelog", {})
    if metadata.get("version") not in changelog:
        yield f"configs/{METADATA}: changelog must have the version {metadata.get('version')}, got {[*changelog]}"
