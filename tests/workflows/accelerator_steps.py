"""No step mixes devices, and each waits as rarely as it may: on an emulated accelerator, and on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from emulated_device import DEVICE, DeviceTensor, MixedDevicesError, emulated_device
from monai.data import MetaTensor, set_track_meta
from torch import nn
from workflow_helpers import BUNDLES, scratch, workflow

from common.cli.options import SHARED_OPTIONS
from common.context.options import CONTEXT_OPTIONS
from common.fnet.options import FNET_OPTIONS
from common.layers.options import LAYERS_OPTIONS
from common.planar import PlanarAtlas
from common.planar.options import PLANAR_OPTIONS

pytestmark = pytest.mark.slow
FOLDER = {bundle.name: bundle for bundle in BUNDLES}
NUM_STEPS = 3
TABLES = (SHARED_OPTIONS, FNET_OPTIONS, CONTEXT_OPTIONS, PLANAR_OPTIONS, LAYERS_OPTIONS)
# how often a step may wait for the device; shapes of tumors are drawn by the host, voxel by voxel
STEPS = {
    ("fnet_wtacae_stl", "train.yaml"): 1,
    ("fnet_wtacae_stl", "pretrain.yaml"): 0,
    ("fnet_wtacae_mtl", "train.yaml"): 2,
    ("context_restoration_unet", "train.yaml"): 1,
    ("context_restoration_unet", "pretrain.yaml"): 0,
    ("planar_heatmap_descriptor", "pretrain.yaml"): 0,
    ("layer_decomp_tumor", "train.yaml"): 9,
    ("layer_decomp_tumor", "pretrain.yaml"): 100,
    ("fnet_wtacae_stl", "train.yaml", "mean_teacher.yaml"): 1,
    ("context_restoration_unet", "train.yaml", "mean_teacher.yaml"): 1,
    ("layer_decomp_tumor", "train.yaml", "mean_teacher.yaml"): 10,
}


@pytest.fixture(autouse=True)
def _meta_data() -> Iterator[None]:
    """Tensors have meta data again after a test."""
    yield
    set_track_meta(True)


@pytest.fixture
def waits(monkeypatch) -> Iterator[dict[str, int]]:
    """An emulated device that the options accept; tensors on it have no meta data, which another subclass keeps."""
    for table in (table for table in TABLES if "device" in table):
        kind = table["device"].kind._replace(fits=lambda value: True)
        monkeypatch.setitem(table, "device", table["device"]._replace(kind=kind))  # type: ignore[arg-type]
    to = torch.Tensor.to

    def move(self: MetaTensor, *args, **kwargs) -> torch.Tensor:
        moved = torch.empty(0).to(*args, **kwargs)
        return to(self.as_tensor() if isinstance(moved, DeviceTensor) else self, *args, **kwargs)

    monkeypatch.setattr(MetaTensor, "to", move)
    with emulated_device() as counted:
        yield counted


@pytest.fixture(params=[DEVICE, pytest.param("cuda:0", marks=pytest.mark.gpu)])
def device(request) -> str:
    """The emulated device, or a real one."""
    if request.param == DEVICE:
        request.getfixturevalue("waits")
    return request.param


def steps(made, num_steps: int = NUM_STEPS) -> None:
    """Let a trainer make a few steps, and nothing beside them."""
    trainer = made.parser.get_parsed_content("train::trainer")
    trainer._event_handlers.clear()
    set_track_meta(False)
    trainer.run()


def test_tensors_of_two_devices_do_not_mix(waits):
    there, here = torch.ones(2, 3, device=DEVICE), torch.ones(2, 3)
    assert there.device == torch.device(DEVICE) and (2 * there + 1).device == there.device
    assert here.to(DEVICE).device == there.device and there.cpu().device == here.device
    assert torch.zeros_like(there).device == there.device and torch.tensor([1.0], device=DEVICE).device == there.device
    for mix in (lambda: there + here, lambda: torch.cat((there, here)), lambda: there @ here.T):
        with pytest.raises(MixedDevicesError, match=r"tensors of the CPU \[\(.*\)\] meet tensors of gpu:0"):
            mix()
    there[here > 0] = 2.0
    assert torch.equal(there.cpu(), 2 * here)


def test_what_waits_for_the_device_is_counted(waits):
    there = torch.arange(4.0).to(DEVICE)
    sum(there.unbind()) + there.mean()
    assert not waits
    for read in (lambda: there[1].item(), lambda: bool((there > 1).any()), there.nonzero, there.tolist, there.cpu):
        before = sum(waits.values())
        read()
        assert sum(waits.values()) == before + 1


@pytest.fixture
def make_training(phantoms, lesions, tmp_path, quiet_hooks):
    """Return a function that makes a short training of a bundle on a device."""

    def _make_training(name, configs, device):
        return workflow(
            FOLDER[name],
            *configs,
            dataset_dir=str(lesions if name == "layer_decomp_tumor" else phantoms),
            ckpt_dir=str(tmp_path),
            device=device,
            max_epochs=1,
            iterations_per_epoch=NUM_STEPS,
            num_workers=0,
            amp=device != DEVICE,  # casts cannot be emulated
            **({} if "pretrain.yaml" in configs else {**scratch(FOLDER[name]), "num_validation": 1}),
        )

    return _make_training


@pytest.mark.parametrize("files", STEPS, ids=" ".join)
def test_steps_of_a_training_stay_on_the_device(files, make_training, device, request):
    name, *configs = files
    made = make_training(name, configs, device)
    made.initialize()
    network = made.parser.get_parsed_content("network")
    before = [parameter.detach().cpu().clone() for parameter in network.parameters()]
    assert before and all(parameter.device == torch.device(device) for parameter in network.parameters())
    waits = request.getfixturevalue("waits") if device == DEVICE else {}
    waits.clear()
    steps(made)
    assert sum(waits.values()) <= NUM_STEPS * STEPS[files], waits
    after = [parameter.detach().cpu() for parameter in network.parameters()]
    assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("name", FOLDER)
def test_a_volume_is_segmented_on_the_device_as_on_the_cpu(name, phantoms, weights, tmp_path, device, quiet_hooks):
    options = {"dataset_dir": str(phantoms / "imagesTs"), "ckpt_dir": str(weights[name]), "output_dir": str(tmp_path)}
    made = [
        workflow(FOLDER[name], "inference.yaml", kind="infer", device=place, **options) for place in ("cpu", device)
    ]
    outputs = []
    for each in made:
        set_track_meta(True)
        each.initialize()
        network, inferer, dataset, place = (
            each.parser.get_parsed_content(part) for part in ("network", "inferer", "dataset", "device")
        )
        inferer.output_dtype = torch.float32  # half precision would hide a difference, or make one of a rounding
        image = torch.as_tensor(dataset[0]["image"].as_tensor()).unsqueeze(0)
        set_track_meta(False)
        with torch.no_grad():
            if isinstance(network, PlanarAtlas):
                label = (image[0] > image.median()).to(torch.uint8)
                network.add(image[0].to(place), label.to(place), "scan")
                image = image.flip(2)
            else:
                network.load_state_dict(made[0].parser.get_parsed_content("network").state_dict())
            outputs.append(inferer(image.to(place), network.eval()))
    assert outputs[1].device == torch.device(device)
    difference = (outputs[1].cpu().float() - outputs[0].float()).abs()
    assert difference.mean() < 1e-3  # convolutions of a GPU round otherwise, and a vote may go to another class
    if device == DEVICE:
        assert difference.max() < 1e-4


@pytest.mark.parametrize("name", sorted({files[0] for files in STEPS}))
def test_a_tensor_that_is_made_on_the_cpu_is_found(name, make_training, waits, monkeypatch):
    """Broken on purpose: what a network returns is multiplied by numbers on the CPU."""
    made = make_training(name, ["pretrain.yaml" if name == "planar_heatmap_descriptor" else "train.yaml"], DEVICE)
    made.initialize()
    convolution = nn.Conv2d if name in ("context_restoration_unet", "planar_heatmap_descriptor") else nn.Conv3d
    forward = convolution.forward

    def broken(self, *args):
        output = forward(self, *args)
        return output * torch.ones(output.shape[1:])

    monkeypatch.setattr(convolution, "forward", broken)
    with pytest.raises(MixedDevicesError, match=r"aten\.mul"):
        steps(made)
