"""Laws of the rows of F-Net: what they hold and that their two sides agree; never a time."""

import pytest
import torch

from common.fnet import FNet
from tools.benchmark.fnet import (
    FNetSize,
    decoder_rows,
    inference_rows,
    multi_task_rows,
    receptive_field,
    sampler_rows,
    training_rows,
    training_step,
)
from tools.benchmark.measure import Timer

TINY = FNetSize(kernel_size=3, features=2, num_levels=3)


@pytest.mark.parametrize("size", [FNetSize(5, 1, 2), FNetSize(3, 1, 3)], ids=str)
def test_receptive_field_of_fnet_is_what_the_gradient_reaches(size):
    features = size.num_levels * (size.features,)  # the default padding depends on every voxel of the image
    network = FNet(1, 2, features, size.kernel_size, padding_value=0.0).double()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            torch.nn.init.constant_(module.weight, 1.0)
    field = receptive_field(size)
    image = torch.ones(1, 1, 2 * field, 8, 8, dtype=torch.float64, requires_grad=True)
    for voxel in (field, field + 1):
        (gradient,) = torch.autograd.grad(network.eval()(image)[0, 0, voxel, 4, 4], image)
        seen = gradient.abs().sum((0, 1, 3, 4)).nonzero()
        assert seen.max() - seen.min() + 1 == field


def test_receptive_fields_of_the_u_nets_are_at_least_that_of_fnet():
    assert receptive_field(FNetSize(5)) == 168
    assert min(receptive_field("BasicUNet"), receptive_field("UNet")) >= 168


def test_training_rows_compare_every_fnet_with_both_u_nets(monkeypatch):
    monkeypatch.setattr("tools.benchmark.fnet.peak_memory", lambda *arguments: 1.0)
    rows = training_rows([TINY, TINY._replace(features=3)], 32, 1, Timer("cpu", 1))
    assert [(row.side_a, row.side_b) for row in rows] == [
        (f"F-Net k=3, {features} maps", u_net) for features in (2, 3) for u_net in ("BasicUNet", "UNet")
    ]
    assert all(row.unit == "voxels/s" and row.median_a > 0 and row.median_b > 0 for row in rows)
    assert rows[0].notes["input"].startswith("42/26/18 against 32^3")


def test_dense_and_overlapped_inference_agree():
    (row,) = inference_rows(TINY, 20, 8, Timer("cpu", 1), tile_size=12)
    assert row.unit == "s"
    assert row.notes["largest difference of the probabilities"] < 1e-6


def test_sparse_and_dense_decoders_agree():
    forward, backward = decoder_rows(3, 5, 12, 2, batch_size=2, timer=Timer("cpu", 1))
    assert forward.notes["largest difference of the reconstruction"] < 1e-5
    assert backward.notes["largest difference of a gradient"] < 1e-5


def test_multi_task_rows_tell_the_cost_in_steps_of_fnet_alone():
    rows = multi_task_rows(TINY, 8, (2, 3), Timer("cpu", 1))
    assert [row.side_a for row in rows] == [f"autoencoders on levels {levels}" for levels in ([0], [0, 1], [0, 1, 2])]
    assert all(row.notes["cost in steps of F-Net alone"] == pytest.approx(1 / row.ratio) for row in rows)


def test_sampler_row_is_in_patches_per_second():
    (row,) = sampler_rows(TINY, 8, 2, Timer("cpu", 2))
    assert (row.unit, row.repeats) == ("patches/s", 2)


@pytest.mark.parametrize("side", [TINY, "UNet"], ids=str)
def test_training_step_learns_all_voxels_of_a_patch_that_is_no_multiple_of_the_u_nets_stride(side, monkeypatch):
    learned, cross_entropy = [], torch.nn.functional.cross_entropy

    def record(logits, label):
        learned.append((tuple(logits.shape[2:]), tuple(label.shape[1:])))
        return cross_entropy(logits, label)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", record)
    training_step(side, 24, 1, "cpu")()
    assert learned == [((24, 24, 24), (24, 24, 24))]
