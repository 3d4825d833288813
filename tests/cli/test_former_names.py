"""Laws of the names that components had before."""

from __future__ import annotations

from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from common.cli.former_names import update_names
from common.context import RandContextPrediction

BUNDLE = str(Path(__file__).resolve().parents[2] / "bundles" / "context_restoration_unet")


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("common.networks.FNet", "common.fnet.FNet"),
        ("common.data.RandAffineGrid", "common.fnet.PatchAugmentation"),
        ("common.fnet.RandAffineGrid", "common.fnet.PatchAugmentation"),
        ("common.transforms.CTWindowsd", "common.context.CTWindowsd"),
        ("common.atlas.GreyValueDifference", "common.planar.GrayValueDifference"),
        ("common.handlers.TrainingRecord", "common.training.MetricsLogger"),
    ],
)
def test_a_component_that_has_moved_is_found_where_it_is_with_a_word_of_warning(former, present, caplog):
    content = {"augmentation": {"parts": [{"_target_": former, "x": 1}]}, "network": {"_target_": "torch.nn.ReLU"}}
    assert update_names(content)
    assert content["augmentation"] == {"parts": [{"_target_": present, "x": 1}]}
    assert caplog.messages == [f"{former} is called {present} now"]
    assert not update_names(content)


def test_what_was_never_there_is_left_for_monai_to_refuse(caplog):
    content = {"loss": {"_target_": "common.losses.NoSuchLoss"}, "other": {"_target_": "elsewhere.losses.Loss"}}
    assert not update_names(content) and caplog.messages == []


def test_a_run_goes_on_with_the_present_name():
    """A user's own file that named what a card had named ended in a component that was not found."""
    parser = ConfigParser(
        {
            "bundle_root": BUNDLE,
            "settings": {"_target_": "common.context.check_options"},
            "patch_size": 4,
            "corruption": {"_target_": "common.transforms.RandContextPrediction", "patch_size": "@patch_size"},
        }
    )
    assert parser.get_parsed_content("settings") == {"patch_size": 4}
    corruption = parser.get_parsed_content("corruption")
    assert isinstance(corruption, RandContextPrediction) and corruption.patch_size == 4
