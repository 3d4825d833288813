"""The steps of all bundles on an accelerator, in a process of their own.

PyTorch counts its devices at the first backward pass of a process: an emulated one that comes later is not among them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
STEPS = Path(__file__).with_name("accelerator_steps.py")


@pytest.mark.parametrize("marked", ["not gpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_steps_stay_on_the_device(marked):
    command = [sys.executable, "-m", "pytest", str(STEPS), "-m", marked, "-p", "no:cacheprovider"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, cwd=STEPS.parents[2])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "100%" in done.stdout
