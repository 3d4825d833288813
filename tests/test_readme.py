"""Commands of README.md, run as they are printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.data import write_phantoms

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


def commands(heading: str) -> str:
    """Return the commands of the first block below a heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"^## {heading}$.*?^```bash$(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    return block[1]


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
    configs = tmp_path / "bundles" / "fnet_wtacae_stl" / "configs"
    shutil.copytree(ROOT / "bundles" / "fnet_wtacae_stl" / "configs", configs)
    demo = (configs / "demo.yaml").read_text(encoding="utf-8")
    short = re.sub(r"^(max_epochs|iterations_per_epoch): .*$", r"\1: 2", demo, flags=re.MULTILINE)
    (configs / "demo.yaml").write_text(short, encoding="utf-8")

    script = append(commands("Your own data"), "demo.yaml").replace("/data/", f"{data}/")
    assert script.count("configs/demo.yaml") == 4
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [file.name for file in (data / "segmented").glob("*.nii.gz")] == ["phantom_003_seg.nii.gz"]
    (scores,) = (tmp_path / "bundles").rglob("mean_dice_raw.csv")
    assert scores.read_text(encoding="utf-8").startswith("filename,liver,spleen,right kidney,left kidney,mean")
