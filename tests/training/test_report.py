"""Laws of the report of an inference."""

from __future__ import annotations

import json

import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from common.training import InferenceReport


def test_the_report_holds_volumes_in_milliliters_and_warns_of_what_is_implausible(tmp_path, caplog):
    affine = torch.diag(torch.tensor([-2.0, 1.0, 5.0, 1.0], dtype=torch.float64))
    outputs = []
    for name, count in (("empty", 0), ("liver", 100), ("flood", 600)):
        label = torch.zeros(1000, dtype=torch.uint8)
        label[:count] = 1
        outputs.append({"pred": MetaTensor(label.view(1, 10, 10, 10), affine, meta={"filename_or_obj": f"{name}.nii"})})
    engine = Engine(lambda engine, batch: batch)
    InferenceReport(tmp_path / "report.json", {0: "background", 1: "liver", 2: "spleen"}).attach(engine)
    engine.run([outputs])

    empty, liver, flood = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["cases"]
    assert empty["warnings"] == ["nothing was segmented"]
    assert liver == {
        "image": "liver.nii",
        "status": "segmented",
        "volumes_ml": {"liver": 1.0, "spleen": 0.0},
        "warnings": [],
    }
    assert flood["warnings"] == ["liver fills 60% of the scan"]
    assert "flood.nii: liver fills 60% of the scan" in caplog.text
