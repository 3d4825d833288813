"""Versions of the packages on which a result depends."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_versions"]

_PACKAGES = {"torch": "torch", "monai": "MONAI", "numpy": "NumPy", "self-supervised-bundles": "self-supervised-bundles"}


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of packages by their names."""
    found = {"Python": platform.python_version()}
    for package, name in _PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
