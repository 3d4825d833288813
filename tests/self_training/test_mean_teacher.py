"""Laws of the mean teacher, on a network of one layer: what it adds to the loss, and nothing without weight."""

from __future__ import annotations

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from common.self_training import MeanTeacherUpdate, perturb
from common.training import WeightAveraging


def make_batches(count=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((count, 2, 1, 4, 4, 4), generator=generator)
    return [{"image": image, "label": (image > 0).long()} for image in images]


def train(update=None, decay=0.9, **options):
    torch.manual_seed(1)
    network = nn.Conv3d(1, 2, 1)
    averaging = WeightAveraging(network, decay)
    if update:
        options["iteration_update"] = update(averaging)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=make_batches(),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=lambda pred, label: nn.functional.cross_entropy(pred, label[:, 0]),
        train_handlers=[averaging],
        decollate=False,
        **options,
    )
    trainer.run()
    return network, averaging, trainer


def test_without_weight_it_is_the_supervised_training_to_the_bit():
    plain, _, _ = train()
    taught, _, _ = train(lambda averaging: MeanTeacherUpdate(averaging, weight=0.0))
    assert all(torch.equal(one, two) for one, two in zip(plain.parameters(), taught.parameters(), strict=True))


def test_without_a_perturbation_and_with_itself_as_teacher_it_adds_nothing():
    plain, _, _ = train(decay=0.0)
    taught, _, trainer = train(lambda averaging: MeanTeacherUpdate(averaging, 5.0, noise=0.0, scale=0.0), decay=0.0)
    assert trainer.state.output["consistency_loss"] < 1e-12
    assert all(torch.allclose(one, two) for one, two in zip(plain.parameters(), taught.parameters(), strict=True))


def test_the_loss_is_that_of_the_labels_plus_the_weighted_consistency():
    def update(averaging):
        return MeanTeacherUpdate(averaging, weight=3.0, ramp_up=1)

    _, _, trainer = train(update)
    output = trainer.state.output
    supervised = nn.functional.cross_entropy(output["pred"], output["label"][:, 0])
    assert output["consistency_loss"] > 0
    assert torch.isclose(output["loss"], supervised + 3 * output["consistency_loss"])


def test_the_teacher_is_the_average_and_learns_by_no_gradient():
    network, averaging, _ = train(lambda averaging: MeanTeacherUpdate(averaging, weight=1.0))
    assert not any(parameter.requires_grad for parameter in averaging.network.parameters())
    assert not torch.equal(network.weight, averaging.network.weight)


def test_the_weight_grows_to_its_value():
    update = MeanTeacherUpdate(WeightAveraging(nn.Conv3d(1, 2, 1), 0.9), ramp_up=10)
    ramp = [update._ramp(step) for step in range(1, 20)]
    assert ramp == sorted(ramp)
    assert ramp[0] < 0.03
    assert ramp[9:] == 10 * [1.0]


def test_without_an_average_there_is_no_teacher():
    with pytest.raises(ValueError, match="weight_averaging must be a number for a mean teacher, got null"):
        MeanTeacherUpdate(WeightAveraging(nn.Conv3d(1, 2, 1), None))


def test_all_resolutions_of_a_sample_are_perturbed_alike_and_samples_differ():
    images = [torch.randn(3, 2, 8, 8, 8), torch.randn(3, 2, 4, 4, 4)]
    fine, coarse = perturb(images, noise=0.0, scale=0.2, generator=torch.Generator().manual_seed(0))
    for sample in range(3):
        for channel in range(2):
            slope = [
                float((seen[sample, channel].flatten().diff() / image[sample, channel].flatten().diff()).median())
                for seen, image in ((fine, images[0]), (coarse, images[1]))
            ]
            assert slope[0] == pytest.approx(slope[1], rel=1e-3)
            assert 0.8 <= slope[0] <= 1.2
    shifts = (fine - images[0]).flatten(1).mean(1)
    assert len({round(shift, 4) for shift in shifts.tolist()}) == 3


def test_the_same_step_of_the_same_seed_is_perturbed_alike():
    def update(averaging):
        return MeanTeacherUpdate(averaging, weight=1.0, seed=7)

    one, _, _ = train(update)
    torch.manual_seed(123)  # the state of the process is another one
    two, _, _ = train(update)
    assert torch.equal(one.weight, two.weight)
