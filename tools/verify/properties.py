"""Properties of a workflow that MONAI and applications such as MONAI Label ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, ReferenceResolver
from monai.bundle.properties import MetaProperties
from monai.utils import BundleProperty, BundlePropertyConfig

from tools.verify.bundle import Bundle, summary
from tools.verify.config_ids import follow
from tools.verify.overrides import bases_of

__all__ = ["check_properties"]


class _Declared(ConfigWorkflow):
    """Workflow whose properties are looked for and not made, which would take its data."""

    def _get_property(self, name: str, property: dict[str, Any]) -> None:
        if property[BundlePropertyConfig.ID] not in self.parser:
            raise AttributeError(name)


def check_properties(bundle: Bundle) -> Iterator[str]:
    """Find workflows without a property that MONAI requires, or with one that it would not find by its name."""
    alone = [(file,) for file in bundle.workflows]
    found: set[str] = set()  # an override repeats what is wrong with the file before it
    for files in [*alone, *((*base, file) for file in bundle.overrides for base in bases_of(bundle, file))]:
        for text in _wrong_properties(bundle.merge(*files), [bundle.root / "configs" / file for file in files]):
            if text not in found:
                found.add(text)
                yield f"configs/{files[-1]}: {text}"


def _wrong_properties(content: dict[str, Any], files: list[Path]) -> Iterator[str]:
    handlers = follow(content, "train::handlers") or []
    if not all(isinstance(handler, dict) for handler in handlers):
        yield "train::handlers must be a list of mappings, which MONAI Label edits, got another"
        return
    kind = "infer" if "evaluator" in content else "train"
    workflow = _Declared([str(file) for file in files], workflow_type=kind, logging_file=False)
    workflow.parser = ConfigParser(_with_new_separator(content))  # MONAI compares references with it alone
    try:
        names = sorted(set(workflow.check_properties()) - set(MetaProperties))
    except (AttributeError, TypeError) as error:  # of what is no reference where MONAI supposes one
        yield f"must refer by @ to what MONAI gives a name of its own, got {summary(error)}"
        return
    for name in names:
        wanted = workflow.properties[name]
        if wanted[BundleProperty.REQUIRED]:
            yield f"must have the id {wanted[BundlePropertyConfig.ID]}, which MONAI requires to {kind}, got none"
        else:
            ref_id, id = wanted[BundlePropertyConfig.REF_ID], wanted[BundlePropertyConfig.ID]
            yield f"{ref_id} must refer to @{id}, where MONAI looks for it, got another"


def _with_new_separator(item: Any) -> Any:
    """Return an item with references that write `::` for `#`, which MONAI reads alike."""
    if isinstance(item, dict):
        return {key: _with_new_separator(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_with_new_separator(value) for value in item]
    return ReferenceResolver.normalize_id(item) if isinstance(item, str) and item.startswith("@") else item
