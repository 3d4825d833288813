"""Network of a bundle: it does what the metadata say, takes its weights, and can be exported."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from monai.bundle import ConfigParser, ckpt_export, verify_net_in_out
from monai.bundle.scripts import _get_fake_spatial_shape
from monai.networks.utils import convert_to_torchscript
from torch import nn

from common.cli import InputError, KindError
from common.data import load_record
from common.data.record import find_record
from tools.verify.bundle import METADATA, Bundle, summary
from tools.verify.config_ids import reachable

__all__ = ["check_network"]

_NO_TORCHSCRIPT = "no_torchscript"  # key of the metadata that says why
_SIDE = 16  # of an axis that may have any length


def check_network(bundle: Bundle) -> Iterator[str]:
    """Find where `network_def` of inference differs from its metadata, its weights or that of training.

    A bundle that was exported, and any other that is shared, is checked with its weights and as it is. In one of this
    repository the metadata describe an example, with which its network is checked; weights that a user has trained
    have classes, channels and settings of their own, and are checked with the network that these make. Building a
    network runs the code of the bundle.
    """
    file = bundle.find("inference")
    if file is None or bundle.metadata is None:
        return
    try:
        tensors = bundle.metadata["network_data_format"]
        images, pred = [_draw(tensors["inputs"]["image"]) for _ in range(2)], tensors["outputs"]["pred"]
        low, high = pred["value_range"] or (-torch.inf, torch.inf)
        channels = [str(name) for name in pred["channel_def"].values()]
    except Exception as error:  # whatever is wrong with what somebody wrote
        yield f"configs/{METADATA}: network_data_format must describe image and pred, got {summary(error)}"
        return
    has_weights = bundle.weights.is_file()
    options: dict[str, Any] = {"bundle_root": str(bundle.root)}
    if bundle.is_source or not has_weights:
        options |= _described(bundle, file, channels)
    try:
        network = _build(bundle, file, options)
    except Exception as error:  # whatever a network raises
        yield f"configs/{file}: network_def must be a network that can be built, got {summary(error)}"
        return
    yield from _check_training(bundle, file, options, network)
    if has_weights:
        finding = _misfit(bundle, file, network)
        if finding is not None:
            yield finding
            return
    try:
        verify_net_in_out(
            "network_def",
            str(bundle.root / "configs" / METADATA),
            str(bundle.root / "configs" / file),
            device="cpu",
            **options,
        )
        with torch.no_grad():
            output = network(images[0])
        lowest, highest = output.min().item(), output.max().item()
    except Exception as error:
        yield f"configs/{file}: network_def must take and give what {METADATA} says, got {summary(error)}"
        return
    if output.ndim != 2 + len(pred["spatial_shape"]):
        yield f"configs/{METADATA}: spatial_shape of pred must have {output.ndim - 2} axes, got {pred['spatial_shape']}"
    if output.shape[1] not in {len(channels), len({*channels} - {"background"})}:  # some have no channel for it
        yield f"configs/{METADATA}: channel_def must name {output.shape[1]} channels, got {', '.join(channels)}"
    if not low <= lowest <= highest <= high:
        yield f"configs/{METADATA}: value_range of pred must hold {lowest:.3g} to {highest:.3g}, got {[low, high]}"
    if _NO_TORCHSCRIPT not in bundle.metadata:
        yield from _check_torchscript(bundle, file, options, network, images)


def _draw(tensor: dict[str, Any]) -> torch.Tensor:
    """Return a random batch of one, as the metadata describe a tensor."""
    low, high = tensor["value_range"] or (0, 1)
    shape = _get_fake_spatial_shape(tensor["spatial_shape"], any=_SIDE)
    return low + (high - low) * torch.rand(1, tensor["num_channels"], *shape)


def _described(bundle: Bundle, file: str, channels: list[str]) -> dict[str, Any]:
    """Return the classes and channels of the metadata, where a network needs to know what is written beside weights."""
    image = (bundle.metadata or {})["network_data_format"]["inputs"]["image"]
    described = {
        "labels": dict(enumerate(dict.fromkeys(["background", *channels]))),
        "modality": str(image.get("modality", "")).split(", "),
    }
    content = bundle.merge(file)
    known = reachable(content, "network_def")
    options = {name: value for name, value in described.items() if name in known}
    if "record" in known and (bundle.is_source or not bundle.weights.is_file()):  # options then have their defaults
        folder = str(content["record"]["_target_"]).rpartition(".")[0]
        options["record"] = {"_target_": f"{folder}.Record"}
        if "ckpt_dir" in content:
            options["ckpt_dir"] = str(bundle.root / "no_weights")  # those of a user may have other settings
    return options


def _misfit(bundle: Bundle, file: str, network: nn.Module) -> str | None:
    """Return why the weights do not fit, and load them into the network of a bundle that is shared."""
    place = "models/model.pt"
    try:
        if bundle.is_source:
            record = load_record(bundle.weights)
            trained = {**record.settings, "labels": record.labels, "modality": record.modality}
            known = reachable(bundle.merge(file), "network_def")
            options = {name: value for name, value in trained.items() if name in known}
            network = _build(bundle, file, {"bundle_root": str(bundle.root), **options})
        network.load_state_dict(torch.load(bundle.weights, map_location="cpu", weights_only=True))
        found = getattr(network, "num_classes", None)  # which an atlas takes from its weights
        if bundle.is_source and found not in (None, len(record.labels)):
            raise InputError(f"{found} classes where record.json names {len(record.labels)}")
    except Exception as error:  # whatever lies in a file
        return f"{place}: must hold the weights of network_def and no code, got {summary(error)}"
    if bundle.is_source or find_record(bundle.weights.parent) is None:
        return None
    classes = [*load_record(bundle.weights).labels.values()]
    described = [*(bundle.metadata or {})["network_data_format"]["outputs"]["pred"]["channel_def"].values()]
    if classes == described:
        return None
    return (
        f"configs/{METADATA}: channel_def must name the classes of {place}, {', '.join(classes)}, got "
        f"{', '.join(described)}; export these weights again"
    )


def _parser(bundle: Bundle, file: str, options: dict[str, Any]) -> ConfigParser:
    return ConfigParser({**bundle.merge(file), **options})


def _build(bundle: Bundle, file: str, options: dict[str, Any]) -> nn.Module:
    network = _parser(bundle, file, options).get_parsed_content("network_def")
    if not isinstance(network, nn.Module):
        raise KindError(f"{type(network).__name__} is no torch.nn.Module")
    return network.eval()


def _check_training(bundle: Bundle, file: str, options: dict[str, Any], network: nn.Module) -> Iterator[str]:
    """Find whether the weights that a training leaves would fit."""
    train = bundle.find("train")
    if train is None or "network_def" not in bundle.configs[train]:
        return
    try:
        trained = _build(bundle, train, options)
    except Exception as error:
        yield f"configs/{train}: network_def must be a network that can be built, got {summary(error)}"
        return
    ours, theirs = ({name: tuple(v.shape) for name, v in net.state_dict().items()} for net in (trained, network))
    grown = {name for name, shape in ours.items() if 0 in shape and shape[1:] == theirs.get(name, ())[1:]}  # an atlas
    unlike = {(name, shape) for name, shape in ours.items() ^ theirs.items() if name not in grown}
    if unlike:
        name, shape = min(unlike, key=str)
        yield f"configs/{train}: network_def must have the weights of that in {file}, got another {name} {shape}"


def _check_torchscript(
    bundle: Bundle, file: str, options: dict[str, Any], network: nn.Module, images: list[torch.Tensor]
) -> Iterator[str]:
    """Find whether TorchScript compiles a network, and computes the same; a trace would hold for its image alone."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/model.ts"
            if bundle.is_source or not bundle.weights.is_file():
                torch.jit.save(convert_to_torchscript(network), path)
            else:  # in the words of the Model Zoo
                configs = bundle.root / "configs"
                ckpt_export(
                    net_id="network_def",
                    filepath=path,
                    ckpt_file=str(bundle.weights),
                    meta_file=str(configs / METADATA),
                    config_file=str(configs / file),
                    **options,
                )
            exported = torch.jit.load(path)
        with torch.no_grad():
            torch.testing.assert_close(exported(images[1]), network(images[1]), rtol=1e-3, atol=1e-4)
    except Exception as error:  # of networks with Python that TorchScript does not know
        yield f"configs/{file}: network_def must become TorchScript (or {METADATA} say why not), got {summary(error)}"
    provided = bundle.weights.with_suffix(".ts")
    if provided.is_file():
        try:
            torch.jit.load(provided)
        except Exception as error:  # of a file that is damaged, or no TorchScript
            yield f"models/{provided.name}: must be TorchScript, got {summary(error)}"
