"""Every training that asks for it validates and keeps the average of its weights, and goes on with it."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from workflow_helpers import BUNDLES, interrupt, run, scratch, workflow

pytestmark = pytest.mark.slow

DECAY = 0.75
TRAININGS = [
    pytest.param(bundle, name, id=f"{bundle.name}-{name.removesuffix('.yaml')}")
    for bundle in BUNDLES
    for name in ("pretrain.yaml", "train.yaml")
    if (bundle / "configs" / name).is_file()
    and "weight_averaging" in ConfigParser.load_config_file(bundle / "configs" / name)
]


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def test_all_bundles_but_the_atlas_can_average_the_weights_that_segment():
    averaged = {param.id.removesuffix("-train") for param in TRAININGS if param.id.endswith("-train")}
    assert averaged == {bundle.name for bundle in BUNDLES} - {"planar_heatmap_descriptor"}


@pytest.mark.parametrize(("bundle", "name"), TRAININGS)
def test_what_is_kept_is_the_average_of_the_steps_also_of_an_interrupted_training(
    bundle, name, phantoms, tmp_path, quiet_hooks
):
    options = {"dataset_dir": str(phantoms), "device": "cpu", "max_epochs": 2, "iterations_per_epoch": 2}
    options |= {"val_interval": 1, "weight_averaging": DECAY}
    options |= {"num_validation": 1, **scratch(bundle)} if name == "train.yaml" else {"val_iterations": 1}
    whole = workflow(bundle, name, ckpt_dir=str(tmp_path / "whole"), **options)
    whole.initialize()
    parsed = {id: whole.parser.get_parsed_content(id) for id in ("averaging", "train::trainer", "validate::evaluator")}
    averaging, trainer, evaluator = parsed.values()
    assert evaluator.network is averaging.network is not averaging.trained
    steps = []

    def note(engine):
        steps.append({key: value.detach().clone() for key, value in averaging.trained.state_dict().items()})

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    validated = []

    def keep(engine):
        validated.append({key: value.clone() for key, value in averaging.network.state_dict().items()})

    evaluator.add_event_handler(Events.EPOCH_COMPLETED, keep)
    whole.run()
    assert (len(steps), len(validated)) == (4, 2)
    for key, value in validated[-1].items():
        if value.is_floating_point():
            weights = torch.tensor([DECAY / 3, DECAY / 3, DECAY / 3, 1 - DECAY], dtype=torch.float64)
            expected = sum(weight * step[key].double() for weight, step in zip(weights, steps, strict=True))
            torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)
    assert not same(validated[-1], steps[-1])

    interrupt(workflow(bundle, name, ckpt_dir=str(tmp_path / "killed"), **options), epoch=2)
    run(bundle, name, ckpt_dir=str(tmp_path / "killed"), **options)
    (written,) = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.pt")}
    first, second = (torch.load(tmp_path / folder / written, weights_only=True) for folder in ("whole", "killed"))
    assert same(first, second)
    assert any(same(first, average) for average in validated)


@pytest.mark.parametrize(("bundle", "name"), [param for param in TRAININGS if param.id.endswith("-train")])
def test_an_evaluation_scores_the_weights_that_were_kept_whatever_the_option_says(
    bundle, name, phantoms, tmp_path, quiet_hooks
):
    common = {"dataset_dir": str(phantoms), "device": "cpu", "ckpt_dir": str(tmp_path)}
    options = {**common, "max_epochs": 1, "iterations_per_epoch": 1, "num_validation": 1, **scratch(bundle)}
    run(bundle, name, **options, weight_averaging=DECAY)
    scores = {"evaluation_dir": str(tmp_path / "scores"), "weight_averaging": DECAY}
    evaluated = run(bundle, name, "evaluate.yaml", **common, **scores)
    network = evaluated.parser.get_parsed_content("validate::evaluator").network
    stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert same(network.state_dict(), stored)
