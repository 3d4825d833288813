"""Client of MONAI Label as Slicer uses it, run where MONAI Label is installed; it prints what Slicer would show.

python slicer_client.py ADDRESS MODEL LABEL MAX_EPOCHS
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from monailabel.client import MONAILabelClient

PATIENCE = 300  # seconds


def read_table(config: dict[str, Any]) -> dict[str, Any]:
    """Return what Slicer sends of a table of options in which nothing was changed; null becomes an empty text."""
    return {
        name: value[0] if isinstance(value, list) else "" if value is None else value for name, value in config.items()
    }


def main(address: str, model: str, label: str, max_epochs: str) -> None:
    client = MONAILabelClient(address)
    info = client.info()
    shown: dict[str, Any] = {"labels": info["labels"], "models": [*info["models"]], "trainers": [*info["trainers"]]}
    sample = client.next_sample("first", {})
    shown["sample"] = sample["id"]
    options = read_table(info["models"][model]["config"])
    _, shown["answer"] = client.infer(model, sample["id"], {**options, "result_extension": ".nrrd"})
    client.save_label(sample["id"], label, "final", {"label_info": [{"name": name} for name in info["labels"]]})
    client.train_start(model, {**read_table(info["trainers"][model]["config"]), "max_epochs": int(max_epochs)})
    bars = []
    for _ in range(10 * PATIENCE):
        if not client.train_status(check_if_running=True) and bars:
            break
        stats = next(iter(client.info()["train_stats"].values()), {})  # Slicer looks at the first of them alone
        epoch = 0 if stats.get("total_time") else stats.get("epoch", 1)
        bar = [epoch, stats.get("total_epochs", 1), stats.get("best_metric", 0)]
        bars += [bar] if bar not in bars[-1:] else []
        time.sleep(0.1)
    shown |= {"bars": bars, "status": client.train_status()["status"], "details": client.train_status()["details"]}
    shown["stats"] = next(iter(client.info()["train_stats"].values()))
    print(json.dumps(shown))


if __name__ == "__main__":
    main(*sys.argv[1:])
