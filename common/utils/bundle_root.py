"""The folder of the bundle that runs."""

from __future__ import annotations

from pathlib import Path

__all__ = ["check_bundle_root"]


def check_bundle_root(bundle_root: str | Path) -> None:
    """Refuse a folder that is no bundle, before weights are written into it.

    Raises:
        FileNotFoundError: when the folder has no `configs/metadata.json`.
    """
    if not (Path(bundle_root) / "configs" / "metadata.json").is_file():
        raise FileNotFoundError(
            f"{Path(bundle_root).resolve()}: bundle_root must be the bundle's folder, with configs/metadata.json; "
            "change into that folder or pass --bundle_root"
        )
