"""Laws of the part of the library that goes with a bundle."""

from __future__ import annotations

import pytest

from tools.export.library import used_modules


def test_only_the_part_of_the_library_that_is_used_comes_along():
    cli = {"__init__.py", *(f"cli/{name}.py" for name in ("__init__", "errors", "options", "signals"))}
    assert set(used_modules(["common.cli.check_flags"])) == cli
    checks = {f"cli/{name}.py" for name in ("check", "command_line", "former_names", "texts")}
    assert set(used_modules(["common.cli.check_options"])) == cli | checks
    files = used_modules(["common.context.DiceCrossEntropyLoss", "common.data.list_images"])
    assert "context/losses.py" in files and "data/image_list.py" in files and "data/checks.py" in files
    assert not [path for path in files if path.startswith(("fnet/", "planar/"))]
    losses = {"training/__init__.py", "training/segmentation_loss.py"}
    assert {path for path in files if path.startswith("training/")} == losses
    assert "from scripts." in "".join(files.values()) and "from common" not in "".join(files.values())
    with pytest.raises(ValueError, match=r"common\.fnet\.ReconstructionLos: must be in common, got no such name"):
        used_modules(["common.fnet.ReconstructionLos"])
