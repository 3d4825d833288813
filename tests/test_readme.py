"""Commands of README.md and of the bundles' cards, run as they are printed."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.data import write_lesion_phantoms, write_phantoms

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
CARDS = sorted(ROOT.glob("bundles/*/docs/README.md"))


def commands(heading: str) -> str:
    """Return the commands of the first block below a heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"^## {heading}$.*?^```bash$(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    return block[1]


def copy_configs(bundle: str, folder: Path, length: int) -> None:
    """Copy the configs of a bundle to where its commands are run, with a demo.yaml of so many epochs and iterations."""
    configs = folder / "bundles" / bundle / "configs"
    shutil.copytree(ROOT / "bundles" / bundle / "configs", configs)
    demo = (configs / "demo.yaml").read_text(encoding="utf-8")
    short = re.sub(r"^(max_epochs|iterations_per_epoch): .*$", rf"\1: {length}", demo, flags=re.MULTILINE)
    (configs / "demo.yaml").write_text(short, encoding="utf-8")


def run(script: str, folder: Path) -> None:
    """Run a script with bash, until a command fails, in the environment of this repository."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def append(script: str, name: str) -> str:
    """Append a config to each list of files, as README says."""
    script = re.sub(r"--config_file (configs/\S+)", r'''--config_file "['\1']"''', script)
    return re.sub(r"""(--config_file "\[[^]]+)]""", rf"\1,'configs/{name}']", script)


def test_a_config_is_appended_to_one_and_to_several():
    one, several = "--config_file configs/a.yaml --x 3", "--config_file \"['a.yaml','b.yaml']\""
    assert append(one, "d.yaml") == "--config_file \"['configs/a.yaml','configs/d.yaml']\" --x 3"
    assert append(several, "d.yaml") == "--config_file \"['a.yaml','b.yaml','configs/d.yaml']\""


def test_your_own_data_leads_from_folders_to_segmentations(tmp_path):
    data = tmp_path / "data"
    write_phantoms(data / "ct", num_training=3, num_test=1, num_unlabeled=2, size=48)
    (data / "ct" / "dataset.json").unlink()
    (data / "ct" / "imagesTs").rename(data / "new")
    shutil.rmtree(data / "ct" / "labelsTs")
    copy_configs("fnet_wtacae_stl", tmp_path, 2)

    script = append(commands("Your own data"), "demo.yaml").replace("/data/", f"{data}/")
    assert script.count("configs/demo.yaml") == 4
    run(script, tmp_path)
    assert [file.name for file in (data / "segmented").glob("*.nii.gz")] == ["phantom_003_seg.nii.gz"]
    (scores,) = (tmp_path / "bundles").rglob("mean_dice_raw.csv")
    assert scores.read_text(encoding="utf-8").startswith("filename,liver,spleen,right kidney,left kidney,mean")


def test_a_scan_is_segmented_without_any_training(tmp_path):
    write_phantoms(tmp_path / "phantoms", num_training=0, num_test=1, num_unlabeled=0, size=48)
    (tmp_path / "phantoms" / "imagesTs").rename(tmp_path / "new")
    run(commands("Without any training").replace("/data/", f"{tmp_path}/"), ROOT)
    assert [file.name for file in (tmp_path / "segmented").glob("*.nii.gz")] == ["phantom_000_seg.nii.gz"]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parents[1].name)
def test_the_commands_of_a_card_run_one_after_the_other(card, tmp_path, monkeypatch):
    """In this process, by what `python -m` runs: most of their time would be that of imports."""
    bundle, data, out = card.parents[1].name, tmp_path / "data", tmp_path / "out"
    write = write_lesion_phantoms if bundle == "layer_decomp_tumor" else write_phantoms
    write(data, num_training=10, num_test=2, num_unlabeled=2, size=32)
    copy_configs(bundle, tmp_path, 1)
    blocks = re.findall(r"^```bash\n(cd bundles/.*?)^```$", card.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    monkeypatch.setattr("sys.excepthook", None)
    for block in blocks:
        script = append(block, "demo.yaml").replace("FILE_OR_FOLDER", f"{data}/imagesTs")
        script = re.sub(r"\bDIR\b", str(data), re.sub(r"\bOUT\b", str(out), script))
        monkeypatch.chdir(tmp_path)
        for first, *arguments in map(shlex.split, filter(None, script.splitlines())):
            if first == "cd":
                monkeypatch.chdir(arguments[0])
                continue
            assert (first, *arguments[:3]) == ("python", "-m", "monai.bundle", "run")
            monkeypatch.setattr("sys.argv", ["monai.bundle", *arguments[2:]])
            runpy.run_module("monai.bundle", run_name="__main__")
    assert len([*out.glob("*_seg.nii.gz")]) == 2
