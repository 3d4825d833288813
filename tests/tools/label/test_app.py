"""MONAI Label serves all bundles at once, over HTTP, from an environment that has nothing of this repository."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from initial_weights import BUNDLES, LABELS, ROOT, export_small, write_weights
from monai.data import ITKWriter
from monai.transforms import LoadImage

from common.data import write_phantoms
from tools.export.__main__ import export

ENVIRONMENT = ROOT / ".venv-label"
NAMES = [bundle.name for bundle in BUNDLES]
ENSEMBLE = "two_f_nets"
STARTS_WITHIN = 180  # seconds, on a busy machine; 12 on a quiet one
TRAINS_WITHIN = 180
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ENVIRONMENT / ".complete").is_file(), reason="needs MONAI Label: bash tools/label.sh --setup"
    ),
]


@dataclass
class Server:
    address: str
    app: Path
    scans: Path

    def ask(self, path: str, method: str = "GET", body: bytes = b"", content: str = "application/json") -> bytes:
        request = urllib.request.Request(self.address + path, body, {"Content-Type": content}, method=method)
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.read()

    def infer(self, name: str, image: str, folder: Path, **options: object) -> np.ndarray:
        file = folder / f"{name}.nii.gz"
        params = json.dumps({"result_extension": ".nii.gz", **options})  # otherwise it is that of the study
        part = f'--part\r\nContent-Disposition: form-data; name="params"\r\n\r\n{params}\r\n--part--\r\n'
        content = "multipart/form-data; boundary=part"
        file.write_bytes(self.ask(f"/infer/{name}?image={image}&output=image", "POST", part.encode(), content))
        segmentation, scan = nib.load(file), nib.load(self.scans / "nifti" / f"{image}.nii.gz")
        np.testing.assert_allclose(segmentation.affine, scan.affine, atol=1e-4)
        return np.asarray(segmentation.dataobj)

    def post_label(self, image: str) -> None:
        label = (self.scans / "labelsTr" / f"{image}.nii.gz").read_bytes()
        head = b'--part\r\nContent-Disposition: form-data; name="label"; filename="label.nii.gz"\r\n\r\n'
        body, content = head + label + b"\r\n--part--\r\n", "multipart/form-data; boundary=part"
        self.ask(f"/datastore/label?image={image}&tag=final", "PUT", body, content)

    def train(self, name: str, options: dict, waits: bool) -> None:
        """Train within the request, or, as Slicer does, in a process of its own."""
        self.ask(f"/train/{name}?run_sync={waits}", "POST", json.dumps(options).encode())
        for _ in range(0 if waits else TRAINS_WITHIN):
            task = json.loads(self.ask("/train/"))
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                assert task["status"] == "DONE" and task["request"]["model"] == name, task
                lines = [line for line in task["details"] if " epoch 1/" in line]
                assert len(lines) == 1, task  # trained once
                return
            time.sleep(1)
        assert waits, task

    def study(self, image: str) -> Path:
        (file,) = (self.scans / "imagesTr").glob(f"{image}.*")
        return file

    def use_as_slicer(self, name: str, label: str, max_epochs: int) -> dict:
        """Return what Slicer's client shows of an inference, a label that is saved, and a training."""
        client = Path(__file__).with_name("slicer_client.py")
        label_file = self.scans / "labelsTr" / f"{label}.nii.gz"
        command = [str(ENVIRONMENT / "bin" / "python"), str(client), self.address, name, str(label_file)]
        done = subprocess.run(
            [*command, str(max_epochs)], env=outside(), capture_output=True, text=True, timeout=TRAINS_WITHIN
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    def segment_without_server(self, name: str, image: str, folder: Path) -> np.ndarray:
        root = self.app / "model" / name
        command = [str(ENVIRONMENT / "bin" / "python"), "-m", "monai.bundle", "run", "inference"]
        options = {
            "config_file": root / "configs" / "inference.json",
            "bundle_root": root,
            "dataset_dir": self.study(image),
            "output_dir": folder / name,
            "device": "cpu",
        }
        command += [f"--{option}={value}" for option, value in options.items()]
        done = subprocess.run(command, cwd=folder, env=outside(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return np.asarray(nib.load(folder / name / f"{image}_seg.nii.gz").dataobj)


def outside() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("label")
    scans = write_phantoms(folder / "new scans", 3, 0, 0, size=32)
    for bundle in BUNDLES:
        write_weights(bundle, folder / bundle.name)
        export_small(bundle, folder / bundle.name, folder / "exported")
    shutil.copytree(scans / "imagesTr", scans / "nifti")
    convert_to_mha(scans / "imagesTr" / "phantom_000.nii.gz")
    export_ensemble(folder / "fnet_wtacae_stl", folder / "exported" / ENSEMBLE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = [str(folder / "exported" / name) for name in (*NAMES, ENSEMBLE)]
    command = ["bash", str(ROOT / "tools" / "label.sh"), *served]
    command += ["--studies", str(scans / "imagesTr"), "--app", str(folder / "app"), "--port", str(port)]
    log = (folder / "log.txt").open("w")
    process = subprocess.Popen(command, cwd=folder, env=outside(), stdout=log, stderr=log, start_new_session=True)
    server = Server(f"http://127.0.0.1:{port}", folder / "app", scans)
    try:
        wait_for(server, process, folder / "log.txt")
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def convert_to_mha(path: Path) -> None:
    """Replace a scan by the same one in another format, which MONAI Label does not list by itself."""
    image = LoadImage(ensure_channel_first=True)(path)
    writer = ITKWriter(output_dtype=np.int16)
    writer.set_data_array(image, channel_dim=0)
    writer.set_metadata({"affine": image.affine})
    writer.write(path.with_name(path.name.replace(".nii.gz", ".mha")))
    path.unlink()


def export_ensemble(weights: Path, output: Path) -> None:
    """Export a network twice as an ensemble, into a folder of another name."""
    second = shutil.copytree(weights, weights.with_name("second"))
    members = {"members": f"{weights},{second}", "override_files": "configs/demo.yaml"}
    export("fnet_wtacae_stl", str(output.parent / "ensemble"), **members)
    (output.parent / "ensemble" / "fnet_wtacae_stl").rename(output)


def wait_for(server: Server, process: subprocess.Popen, log: Path) -> None:
    for _ in range(STARTS_WITHIN):
        assert process.poll() is None, log.read_text(encoding="utf-8")[-3000:]
        try:
            server.ask("/info/")
            return
        except OSError:
            time.sleep(1)
    raise TimeoutError(log.read_text(encoding="utf-8")[-3000:])


def test_infers_trains_on_posted_labels_and_infers_with_the_new_weights(server, tmp_path):
    """One test, since one server serves them all."""
    info = json.loads(server.ask("/info/"))
    expected = {name: value for value, name in LABELS.items() if value}
    assert {name: model["labels"] for name, model in info["models"].items()} == dict.fromkeys(
        (*NAMES, ENSEMBLE), expected
    )
    assert set(info["trainers"]) == set(NAMES), "an ensemble is not trained"
    assert set(info["strategies"]) == {"random", "first", "k_medoids", "k_center"}
    assert info["datastore"]["total"] == 3, "the .mha file is a study, too"

    offered = {name: first_choices(trainer["config"]) for name, trainer in info["trainers"].items()}
    assert {"device", "pretrained", "model_filename", "run_id"} <= offered[NAMES[0]].keys()

    image, atlas, watched = "phantom_000", "planar_heatmap_descriptor", "fnet_wtacae_stl"
    before = infer_twice(server, image, tmp_path / "before", [watched])
    assert (server.infer(ENSEMBLE, image, tmp_path) == before[watched]).mean() > 0.999, "of members that are alike"
    check_options(server, info, image, tmp_path)
    for scan in ("phantom_001", "phantom_002"):
        server.post_label(scan)
        for name in NAMES:
            weights = server.app / "model" / name / "models" / "model.pt"
            old = weights.read_bytes()
            server.train(name, {**offered[name], "max_epochs": 1}, waits=scan == "phantom_001")
            assert weights.read_bytes() != old, f"{name}: the second training goes on from the first one's weights"
            assert name != atlas or weights.stat().st_size > len(old), "the atlas grows"
            (latest, stats), *_ = json.loads(server.ask("/info/"))["train_stats"].items()
            assert (latest, stats["epoch"]) == (name, stats["total_epochs"]) and 0 <= stats["best_metric"] <= 1
    after = infer_twice(server, image, tmp_path / "after", NAMES)
    for strategy in ("k_medoids", "k_center"):  # one scan has no label
        assert json.loads(server.ask(f"/activelearning/{strategy}", "POST", b"{}"))["id"] == image
    assert not before[atlas].any() and set(np.unique(after[atlas])) == set(LABELS), "an empty atlas knows no class"
    for name in NAMES:
        assert (before[name] != after[name]).any(), f"{name}: the same segmentation as before the training"
    assert len(np.unique(before[watched])) > 1
    check_slicer(server, watched, image)


def check_options(server: Server, info: dict, image: str, folder: Path) -> None:
    """Check that the options of an inference are those that were offered, and change it, and that none is evaluated."""
    atlas = "planar_heatmap_descriptor"
    assert info["models"][atlas]["config"]["voting"] == ["majority", "distance"]
    assert info["models"]["layer_decomp_tumor"]["config"]["roi_size"].startswith("[")
    harmful = {"_target_": "builtins.open", "file": "evaluated", "mode": "w"}
    for value in ("$open('evaluated', 'w')", harmful, [harmful]):
        with pytest.raises(OSError, match="500"):
            server.infer(atlas, image, folder, smoothing=value)
    assert not (server.app / "evaluated").exists()


def check_slicer(server: Server, name: str, image: str) -> None:
    """Check what Slicer shows while the last of three scans is labeled, and a training runs."""
    shown = server.use_as_slicer(name, image, max_epochs=4)
    assert (shown["sample"], shown["status"]) == (image, "DONE"), shown["details"]
    assert {*shown["labels"]} == {*list(LABELS.values())[1:]} and shown["answer"]["label_names"]
    epochs = [epoch for epoch, total, _ in shown["bars"] if total == 4 and epoch]  # 0 before the first and at the end
    assert epochs == sorted(epochs) and len({*epochs}) > 1, f"the bar moves, {shown['bars']}"
    assert shown["stats"]["epoch"] == 4 and shown["stats"]["total_time"]
    history = (server.app / "model" / name / "models" / "history.csv").read_text(encoding="utf-8").splitlines()
    scores = [dict(zip(history[0].split(","), row.split(","), strict=True))["mean_dice"] for row in history[1:]]
    assert shown["stats"]["best_metric"] == max(float(score) for score in scores if score)
    held_out = json.loads((server.app / "validation.json").read_text(encoding="utf-8"))
    assert held_out["validation"] == [server.study(image).name], "the only one that was not learned from"


def first_choices(config: dict) -> dict:
    """Return the options that a client sends when its user changes none: of a list, the first entry."""
    return {name: value[0] if isinstance(value, list) else value for name, value in config.items()}


def infer_twice(server: Server, image: str, folder: Path, compared: list[str]) -> dict[str, np.ndarray]:
    """Return the segmentation that each bundle gives over HTTP; those that are compared give the same as a command."""
    folder.mkdir()
    served = {name: server.infer(name, image, folder) for name in NAMES}
    for name in compared:
        np.testing.assert_array_equal(served[name], server.segment_without_server(name, image, folder), err_msg=name)
    return served
